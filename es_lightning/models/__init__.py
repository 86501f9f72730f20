"""Models in and out: base models, their weights on disk, embedded models, exports and model cards."""

TYPE_CHECKING = False  # the import of typing would cost more than all the rest
if TYPE_CHECKING:
    from es_lightning.models.base_model import BaseModel

__all__ = ["BaseModel"]


def __getattr__(name: str) -> object:
    """Load the base model's class when it is first used, and torch with it; ``fetch`` needs neither."""
    if name != "BaseModel":
        raise AttributeError(f"module 'es_lightning.models' has no attribute {name!r}")
    from es_lightning.models.base_model import BaseModel

    return BaseModel
