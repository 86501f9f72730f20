"""Evolution strategies themselves: noise, members, weights, update. It needs torch and nothing else."""
