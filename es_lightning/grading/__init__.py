"""Rewards: completions become numbers in processes that are killed at their time-out."""
