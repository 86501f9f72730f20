"""Results of slow calls, kept in a file in their order, so that a run that was killed repeats none of
them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from es_lightning.errors import UsageError
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.probing.store import Share
from es_lightning.system.files import Lines, read_lines, to_json


class Remembered:
    """A function of arrays whose results are on disk; a resumed run has to call it in the same order.

    Args:
        function: from an array to an array.
        path: file of JSON lines; what it holds is returned again.
        about: what decides the results beside the arguments, in plain JSON.
        writes: whether this rank reads and writes the file.
        share: tells the other ranks what rank 0 has read, since machines may not share their disks.

    Raises:
        UsageError: the file belongs to other settings, or is damaged.
    """

    def __init__(
        self,
        function: Callable[[Array], Array],
        path: Path,
        about: Mapping[str, Any],
        writes: bool = True,
        share: Share = lambda payload: payload,
    ) -> None:
        self.function, self.path, self.calls = function, path, 0
        head = to_json(dict(about))
        text = share("\n".join(read_lines(path) if writes else []).encode()).decode()
        old = text.split("\n") if text else []
        if old and old[0] != head:
            raise UsageError(f"{path} belongs to a run with other settings: give another --output.")
        try:
            self._known = [json.loads(line) for line in old[1:]]
        except ValueError as error:
            raise UsageError(f"{path} is damaged ({error}): delete it.") from error
        self._file = Lines(path, old or [head]) if writes else None

    def __call__(self, argument: Array) -> Array:
        """Return the function's result, from the file if it is there."""
        index, self.calls = self.calls, self.calls + 1
        if index < len(self._known):
            known = self._known[index]
            same = np.shape(known["at"]) == argument.shape
            if not same or not np.allclose(known["at"], argument, rtol=1e-6, atol=1e-12):
                raise UsageError(f"{self.path} belongs to a run with other steps: delete it.")
            return np.array(known["result"], dtype=np.float64)
        result = self.function(argument)
        if self._file is not None:
            self._file.append(to_json({"at": argument.tolist(), "result": result.tolist()}))
        return result
