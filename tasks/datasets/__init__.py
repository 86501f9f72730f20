"""Rows of data sets: where they come from, how they are divided, and what their formats mean."""
