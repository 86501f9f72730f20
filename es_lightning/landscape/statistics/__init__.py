"""What is told of candidates measured once: best-of-N, its null and its held-out gain, with intervals."""
