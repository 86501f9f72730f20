"""A model's weights on disk, read one tensor at a time."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from es_lightning.errors import UsageError


class BaseWeights:
    """The base model's weights, read from its safetensors files one tensor at a time and never held.

    Args:
        folder: the base model's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = dict(_safetensors_names(folder))

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str) -> Tensor:
        """Return the tensor as stored.

        The file is opened anew each time: if it stayed open, its mapped pages would pile up in memory.

        Raises:
            UsageError: the files have no tensor of this name; they may use other names than transformers.
        """
        from safetensors import safe_open

        if name not in self:
            raise UsageError(
                f"{self.folder} holds no tensor {name}: load the model with transformers and save it anew."
            )
        with safe_open(self._files[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor


def _safetensors_names(folder: Path) -> Iterator[tuple[str, Path]]:
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            yield from ((name, path) for name in file.keys())  # noqa: SIM118  (not a dict)
