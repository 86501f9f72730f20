"""Runs side by side: what they reached at equal cost, with what certainty, and what it did to the model."""
