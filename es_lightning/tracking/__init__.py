"""MLflow: a logger that loses nothing while the server is away, and the files that a run keeps there."""
