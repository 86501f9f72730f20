"""An engine of adapters that needs no vLLM, and wrong ones."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from es_lightning.models import BaseModel
from es_lightning.records import Completion, Prompt
from es_lightning.rollout import AdapterEngine, HFEngine, Sampling
from es_lightning.rollout.adapters import Factors, require_finite_each


class HFAdapters(HFEngine, AdapterEngine):
    """Adds one adapter after the other to the weights, and takes it away again.

    Args:
        max_loras: the most adapters of one batch; None takes all.
        dtype: precision of the weights.
        failures: how many batches fail at first.
    """

    def __init__(self, max_loras: int | None = None, dtype: str = "float32", failures: int = 0) -> None:
        super().__init__(dtype, device="cpu")  # type: ignore[arg-type]
        self.max_loras, self.failures = max_loras, failures
        self.names: tuple[str, ...] = ()
        self.rank = self.count = self.loads = 0
        self.adapters: list[list[Factors]] = []
        self.batches: list[int] = []

    def reached(self, folder: Path) -> list[str]:
        """Linear layers except the head."""
        model = BaseModel(folder).load()
        return [
            f"{path}.weight"
            for path, module in model.named_modules()
            if type(module) is nn.Linear and path != "lm_head"
        ]

    def expect(self, names: Sequence[str], rank: int, count: int) -> None:
        """Note what is expected."""
        self.names, self.rank, self.count = tuple(names), rank, count

    @property
    def at_once(self) -> int:
        """What is expected, as far as there is room."""
        return min(self.count, self.max_loras or self.count)

    def load_weights(self, named_tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Forget all adapters."""
        self.loads += 1
        self.adapters = []
        super().load_weights(named_tensors)

    def load_adapters(self, adapters: Sequence[Iterable[Factors]]) -> None:
        """Keep them."""
        assert 1 <= len(adapters) <= self.at_once
        self.adapters = [list(adapter) for adapter in adapters]
        assert {name for adapter in self.adapters for name, _, _ in adapter} <= set(self.names)
        self.batches.append(len(adapters))

    def generate_each(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """One adapter after the other."""
        assert self.adapters
        if self.failures:
            self.failures -= 1
            raise RuntimeError("out of memory")
        require_finite_each(self.logprobs_each([prompt.token_ids for prompt in prompts]))
        return [self._with(index, lambda: self.generate(prompts, sampling)) for index in self._places]

    def logprobs_each(self, sequences: Sequence[Sequence[int]]) -> list[list[Tensor]]:
        """One adapter after the other."""
        return [self._with(index, lambda: self.logprobs(sequences)) for index in self._places]

    @contextmanager
    def using(self, index: int) -> Iterator[None]:
        """Put an adapter into the weights for a while."""
        before = {name: self.model.get_parameter(name).clone() for name, _, _ in self.adapters[index]}
        try:
            for name, left, right in self.adapters[index]:
                parameter = self.model.get_parameter(name)
                parameter.copy_(parameter.float() + left.float() @ right.float().T)
            yield
        finally:
            for name, tensor in before.items():
                self.model.get_parameter(name).copy_(tensor)

    @property
    def _places(self) -> range:
        return range(len(self.adapters))

    def _with(self, index: int, ask):  # type: ignore[no-untyped-def]
        with torch.no_grad(), self.using(index):
            return ask()


class Stale(HFAdapters):
    """Goes on with the first adapters that it has got."""

    def load_adapters(self, adapters: Sequence[Iterable[Factors]]) -> None:
        """Compute with those before, if there are any."""
        before = getattr(self, "before", None)
        super().load_adapters(adapters)
        self.before = self.adapters
        self.adapters = before or self.adapters


class Mixed(HFAdapters):
    """Takes the last adapter for all."""

    def load_adapters(self, adapters: Sequence[Iterable[Factors]]) -> None:
        """Keep the last one."""
        super().load_adapters(adapters)
        self.adapters = [self.adapters[-1]] * len(self.adapters)


class Doubled(HFAdapters):
    """Multiplies by alpha / r twice, with alpha = 2 r."""

    def load_adapters(self, adapters: Sequence[Iterable[Factors]]) -> None:
        """Double what is added."""
        super().load_adapters([[(name, 2 * left, right) for name, left, right in each] for each in adapters])


class NoKeys(HFAdapters):
    """Leaves the keys without an adapter."""

    def load_adapters(self, adapters: Sequence[Iterable[Factors]]) -> None:
        """Drop what is for the keys."""
        super().load_adapters([[each for each in adapter if "k_proj" not in each[0]] for adapter in adapters])
