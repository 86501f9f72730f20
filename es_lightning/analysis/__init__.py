"""What numbers tell of a run: its population, its curve of rewards, its weights, its forgetting."""
