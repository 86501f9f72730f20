"""The runs behind docs/results.md."""
