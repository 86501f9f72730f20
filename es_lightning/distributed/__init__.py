"""Runs on several ranks: the population is spread over them."""
