"""Errors that are the user's to mend: the message is one sentence that says what to do."""


class UsageError(ValueError):
    """A setting, a file or a model that cannot be used; raised before any engine starts where possible."""


class RewardError(RuntimeError):
    """A task returned something that is no finite reward."""
