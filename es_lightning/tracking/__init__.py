"""MLflow: a logger that loses nothing while the server is away, and artifacts of a run."""
