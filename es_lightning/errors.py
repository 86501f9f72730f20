"""Errors that end a run with one sentence, which says what to do."""


class UsageError(ValueError):
    """A setting, a file or a model that cannot be used; raised before any engine starts where possible."""


class RewardError(RuntimeError):
    """Grading cannot go on: a reward is no finite number, or too many graders fail, or none can start."""


class RolloutError(RuntimeError):
    """The engine failed on a member; the centre is as it was before the generation."""


class DivergenceError(RuntimeError):
    """Weights or log-probabilities are not finite any more, or far too large: sigma or lr is too large."""


class RankError(RuntimeError):
    """Another rank is missing, has failed, or holds another centre."""


class StorageError(RuntimeError):
    """A file of the run could not be written: a full disk, a read-only folder."""
