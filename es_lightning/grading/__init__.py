"""Rewards: separate processes grade completions, and are killed at their time-out."""
