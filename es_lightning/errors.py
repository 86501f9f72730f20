"""Errors that end a run with one sentence, which says what to do."""


class UsageError(ValueError):
    """A setting, a file or a model that cannot be used; raised before any engine starts where possible."""


class RewardError(RuntimeError):
    """A task returned something that is no finite reward."""


class RolloutError(RuntimeError):
    """The engine failed on a member; the centre is what it was before the generation."""


class RankError(RuntimeError):
    """Another rank is missing, has failed, or holds another centre."""


class StorageError(RuntimeError):
    """A file of the run could not be written: a full disk, a read-only folder."""
