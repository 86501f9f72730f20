"""The population spread over ranks."""
