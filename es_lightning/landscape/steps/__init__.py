"""The step-size map: what a short probe says of sigma, the learning rate and the population."""
