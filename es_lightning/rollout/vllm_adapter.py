"""vLLM with several members in one batch: each is an adapter beside the centre's weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from es_lightning.errors import UsageError
from es_lightning.records import Completion, Prompt
from es_lightning.rollout.adapters import AdapterEngine, Factors, even_share, require_finite_each
from es_lightning.rollout.checkpoint_form import CheckpointForm
from es_lightning.rollout.engine import Sampling
from es_lightning.rollout.thin_products import use_thin_products
from es_lightning.rollout.vllm import VLLMEngine, probe_of, prompt_logprobs
from es_lightning.rollout.vllm_environment import prepare_environment

MOST = 64  # adapters of one batch, unless max_loras says otherwise
WEIGHT = ".weight"
NO_FILE = "in-memory"  # vLLM wants a path, which it would read if it had lost an adapter


class VLLMAdapterEngine(VLLMEngine, AdapterEngine):
    """Generates for many members at once: the centre is loaded once, and each member is a LoRA adapter.

    Noise has to be of low rank. Adapters reach the matrices of linear layers alone; all other parameters,
    such as norms and embeddings, are frozen for the run.

    Args:
        max_loras: the most members of one batch; more are evaluated in several batches of even size. None
            takes all members of a lane, at most 64.
        engine: all arguments of ``VLLMEngine``. On CPUs vLLM compiles nothing beside adapters.

    Raises:
        UsageError: vLLM is not installed, or a value is outside its range.
    """

    def __init__(self, max_loras: int | None = None, **engine: Any) -> None:
        super().__init__(**engine)
        if max_loras is not None and max_loras < 1:
            raise UsageError(f"engine.max_loras is {max_loras}: give at least 1.")
        self.max_loras = max_loras
        self._names: tuple[str, ...] = ()
        self._rank = self._count = self._slots = 0
        self._modules: dict[str, str] = {}  # from a parameter's name to its layer's in the checkpoint
        self._held: list[Any] = []  # a vllm.lora.request.LoRARequest for each adapter
        self._chosen: Any = None  # one of them
        self._are_checked = False  # whether they have given finite log-probabilities
        self._served = 0  # adapters so far, so that no two have the same name

    def check(self, folder: Path) -> None:
        """Ask vLLM whether it can run the model, and whether it has adapters for it."""
        config = self._model_config(folder)
        from vllm.model_executor.models import supports_lora

        kind, _ = config.registry.resolve_model_cls(config.architectures, config)
        if not supports_lora(kind) or not self.reached(folder):
            raise UsageError(
                f"vLLM has no adapters for a {kind.__name__}, and {type(self).__name__} holds members as "
                "such: take --model.engine VLLMEngine."
            )

    # What is expected -----------------------------------------------------------------------------

    def reached(self, folder: Path) -> list[str]:
        """Name the weights of linear layers except the head, as far as the checkpoint has them, too."""
        form = self._checkpoint(folder)
        head, names = form.model.get_output_embeddings(), form.names()
        linear = {
            path + WEIGHT
            for path, module in form.model.named_modules()
            if type(module) is nn.Linear and module is not head
        }
        return [name for name, _ in form.model.named_parameters() if name in linear and name in names]

    def expect(self, names: Sequence[str], rank: int, count: int) -> None:
        """Keep room for adapters of one of the ranks that vLLM has kernels for."""
        prepare_environment()
        from vllm.config.lora import MaxLoRARanks

        ranks = [each for each in get_args(MaxLoRARanks) if each >= rank]
        if not ranks:
            raise UsageError(
                f"the noise has rank {rank}, and vLLM's adapters have at most {max(get_args(MaxLoRARanks))}: "
                "lower model.noise.init_args.rank, or take --model.engine VLLMEngine."
            )
        self._names, self._rank, self._count = tuple(names), ranks[0], count

    @property
    def at_once(self) -> int:
        """The most adapters of one batch, as of the last start."""
        return self._slots

    # Starting -------------------------------------------------------------------------------------

    def start(self, folder: Path, max_length: int) -> None:
        """Start vLLM, with room for the adapters that are expected."""
        names, self._slots = self._checkpoint(folder).names(), even_share(self._count, self.max_loras or MOST)
        self._modules, self._held = {name: names[name].removesuffix(WEIGHT) for name in self._names}, []
        super().start(folder, max_length)
        if self._modules and (foreign := self.llm.apply_model(_without_slot(self._modules))[0]):
            self.close()
            raise UsageError(
                f"vLLM's adapters do not reach {', '.join(foreign[:4])} of this model: exclude them with "
                "--model.noise FilteredNoise, or take --model.engine VLLMEngine."
            )

    def _more_options(self) -> dict[str, Any]:
        if not self._names:
            return {}
        layers = {module.rpartition(".")[2] for module in self._modules.values()}
        return {
            "enable_lora": True,
            "max_loras": self._slots,
            "max_lora_rank": self._rank,
            # Layers without adapters cost nothing. A head with them would give rows without an adapter the
            # last adapter's logits.
            "lora_target_modules": sorted(layers),
        }

    def _checkpoint(self, folder: Path) -> CheckpointForm:
        return CheckpointForm(self._config(folder), self.trust_remote_code)

    # Weights --------------------------------------------------------------------------------------

    def load_weights(self, named_tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Replace all weights; vLLM forgets all adapters then."""
        self._held = []
        super().load_weights(named_tensors)

    def load_adapters(self, adapters: Sequence[Iterable[Factors]]) -> None:
        """Register adapters under names and numbers that no other one has had.

        vLLM knows what it has cached of a prompt by the adapter's name, so none finds an earlier one's.
        """
        from vllm.lora.request import LoRARequest

        if not 1 <= len(adapters) <= self.at_once:
            raise ValueError(f"there is room for {self.at_once} adapters, and not for {len(adapters)}")
        if self.llm.llm_engine.has_unfinished_requests():
            raise RuntimeError("a request is still running, and would go on with another adapter")
        self._held = []
        numbers = range(self._served + 1, self._served + len(adapters) + 1)
        self._served = numbers[-1]
        named = [dict(self._tensors(adapter)) for adapter in adapters]
        self.llm.apply_model(_registers(dict(zip(numbers, named, strict=True)), self.dtype))
        self._held = [LoRARequest(f"adapter {number}", number, NO_FILE) for number in numbers]
        self._are_checked = False

    def _tensors(self, adapter: Iterable[Factors]) -> Iterator[tuple[str, Tensor]]:
        """Name thin matrices as PEFT does: unstacked, whatever vLLM makes one layer of."""
        for name, left, right in adapter:
            module = f"base_model.model.{self._modules[name]}"
            yield f"{module}.lora_A.weight", right.T.contiguous()
            yield f"{module}.lora_B.weight", left

    # Generating -----------------------------------------------------------------------------------

    def generate_each(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Complete every prompt with every adapter, in one batch."""
        if not self._are_checked:
            require_finite_each(self.logprobs_each(probe_of(prompts)))
            self._are_checked = True
        params = self._decoding(prompts, sampling)
        outputs = self._run_each([prompt.token_ids for prompt in prompts], params)
        return [self._completions(of_one) for of_one in outputs]

    def logprobs_each(self, sequences: Sequence[Sequence[int]]) -> list[list[Tensor]]:
        """Compute log-probabilities with every adapter, in one batch."""
        outputs = self._run_each(sequences, [self._scoring()] * len(sequences))
        return [[prompt_logprobs(output) for output in of_one] for of_one in outputs]

    @contextmanager
    def using(self, index: int) -> Iterator[None]:
        """Compute with one adapter alone."""
        self._chosen = self._held[index]
        try:
            yield
        finally:
            self._chosen = None

    def _run(self, sequences: Sequence[Sequence[int]], params: Any, **more: Any) -> list[Any]:
        return super()._run(sequences, params, **({"lora_request": self._chosen} | more))

    def _run_each(self, sequences: Sequence[Sequence[int]], params: Sequence[Any]) -> list[list[Any]]:
        """Run all sequences with all adapters; none goes without, since that would get another one's."""
        if not self._held:
            raise RuntimeError("there are no adapters: call load_adapters first.")
        count, size = len(self._held), len(sequences)
        requests = [request for request in self._held for _ in sequences]
        outputs = self._run([*sequences] * count, [*params] * count, lora_request=requests)
        return [outputs[first : first + size] for first in range(0, count * size, size or 1)] or [[]] * count


def _registers(adapters: dict[int, dict[str, Tensor]], dtype: torch.dtype) -> Any:
    """Make a function that puts adapters into a model's slots, in memory."""

    def register(model: Any) -> None:
        from vllm.lora.lora_model import LoRAModel
        from vllm.lora.peft_helper import PEFTHelper
        from vllm.platforms import current_platform

        manager, rank = model.lora_manager, 0
        manager.remove_all_adapters()
        for number, tensors in adapters.items():
            first = next(iter(tensors.values()))
            rank = len(first)
            adapter = LoRAModel.from_lora_tensors(
                number,
                tensors,
                # vLLM multiplies by alpha / r in place, and perhaps again: with alpha = r that does nothing.
                PEFTHelper(r=rank, lora_alpha=rank, target_modules=[]),
                device=str(first.device),
                dtype=dtype,
                weights_mapper=_renames(model),
            )
            manager.add_adapter(adapter)
            manager.activate_adapter(number)
        if current_platform.is_cpu():
            use_thin_products(model, len(adapters), rank)

    return register


def _without_slot(modules: dict[str, str]) -> Any:
    """Make a function that names the parameters that have no slot of their own in a model."""

    def foreign(model: Any) -> list[str]:
        manager, renames = model.lora_manager, _renames(model)
        slots = {slot for name in manager.modules for slot in manager.packed_modules.get(name, [name])}
        found = {
            name: renames._map_name(module + WEIGHT) if renames else module + WEIGHT
            for name, module in modules.items()
        }
        return [name for name, place in found.items() if (place or "").removesuffix(WEIGHT) not in slots]

    return foreign


def _renames(model: Any) -> Any:
    """Return vLLM's mapping of checkpoints' names to its own, without stacking, as it has it for adapters."""
    mapper = getattr(model, "hf_to_vllm_mapper", None)
    return None if mapper is None else mapper.get_rename_mapper()
