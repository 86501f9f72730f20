"""The tasks: one file and one export line each. This folder is the package ``es_lightning.tasks``."""

if __name__ == "tasks":
    raise ModuleNotFoundError("import es_lightning.tasks, not tasks")

from es_lightning.tasks.conciseness import Conciseness
from es_lightning.tasks.countdown import Countdown

__all__ = ["Conciseness", "Countdown"]
