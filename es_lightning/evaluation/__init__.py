"""Weights are evaluated: completions, rewards, and what all ranks learn of them."""
