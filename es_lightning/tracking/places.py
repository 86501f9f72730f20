"""Where MLflow's records of runs are, unless the user says otherwise."""

TRACKING_URI = "sqlite:///mlflow.db"
"""MLflow's store, in the working folder."""

MLFLOW_RUN = "mlflow-run.json"
"""File in a run's folder that says which of MLflow's runs it is."""
