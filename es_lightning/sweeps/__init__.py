"""Many fits of one config: which values they get, their processes, their results."""
