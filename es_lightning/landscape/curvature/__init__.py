"""Slope and curvature of a reward, from perturbations and, where there is one, from the gradient."""
