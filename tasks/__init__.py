"""The tasks: one file and one export line each. This folder is the package ``es_lightning.tasks``."""

# From the repository root, Python could also import this folder as ``tasks``: a second copy of each module.
if __name__ == "tasks":
    raise ModuleNotFoundError("import es_lightning.tasks, not tasks")

from es_lightning.tasks.conciseness import Conciseness
from es_lightning.tasks.countdown import Countdown
from es_lightning.tasks.log_likelihood import LogLikelihood
from es_lightning.tasks.math import MathTask
from es_lightning.tasks.mixture import Mixture
from es_lightning.tasks.multiple_choice import MultipleChoice
from es_lightning.tasks.proofwriter import ProofWriter
from es_lightning.tasks.python_rewards import PythonRewards
from es_lightning.tasks.reasoning_gym import ReasoningGym
from es_lightning.tasks.sums import Sums

__all__ = [
    "Conciseness",
    "Countdown",
    "LogLikelihood",
    "MathTask",
    "Mixture",
    "MultipleChoice",
    "ProofWriter",
    "PythonRewards",
    "ReasoningGym",
    "Sums",
]
