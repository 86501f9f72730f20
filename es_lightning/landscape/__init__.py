"""Models of the reward as a landscape over the weights."""
