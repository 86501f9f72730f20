"""The command ``es-lightning``."""
