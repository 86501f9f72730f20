"""Models in and out: base models, their weights on disk, the embedded ones, exports and cards."""

from es_lightning.models.base_model import BaseModel

__all__ = ["BaseModel"]
