"""Reinforcement learning on the same tasks, prompts and rewards as evolution strategies, through TRL."""
