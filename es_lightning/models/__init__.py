"""Models in and out: base models, their weights on disk, embedded models, exports and model cards."""

from es_lightning.models.base_model import BaseModel

__all__ = ["BaseModel"]
