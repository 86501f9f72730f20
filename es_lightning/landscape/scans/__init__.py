"""Scans: the reward along lines, circles and planes of weight space."""
