"""Analysis of a run's numbers: its population, its reward curve, its weights and its forgetting."""
