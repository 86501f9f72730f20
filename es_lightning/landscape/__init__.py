"""Models of the landscape that a reward spans over the weights."""
