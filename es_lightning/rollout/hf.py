"""The reference engine: transformers, on any device, without vLLM."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from es_lightning.errors import UsageError
from es_lightning.models.layout import persistent_buffers
from es_lightning.records import Completion, Prompt
from es_lightning.rollout.engine import (
    DTypeName,
    RolloutEngine,
    Sampling,
    model_dtype,
    require_finite,
)
from es_lightning.rollout.hf_parallel import part_for, split
from es_lightning.rollout.text import Completing, end_ids

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

LOGITS_AT_ONCE = 2048  # positions; they take 400 MB for every 50,000 tokens of the vocabulary
WORTH_SHARING = 64  # spared tokens; fewer do not pay for another pass over all weights


class HFEngine(RolloutEngine):
    """Generates with ``transformers``: slower than vLLM, but it runs everywhere.

    Every other engine is tested against it.

    Args:
        dtype: precision of the weights; ``auto``: the base model's own, but on CPUs without instructions for
            bfloat16 float32, which is faster there.
        device: torch device; ``auto`` takes the accelerator where there is one, else the CPU.
        batch_size: prompts decoded at once, and most sequences of one length that are scored at once.
        tensor_parallel_size: number of consecutive ranks that hold one copy of the model together and
            evaluate the same members; the number of ranks and the model's heads must divide by it.
        trust_remote_code: run Python code that comes with the model folder.
    """

    gives_distributions = True

    def __init__(
        self,
        dtype: DTypeName = "auto",
        device: str = "auto",
        batch_size: int = 64,
        tensor_parallel_size: int = 1,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(dtype, trust_remote_code)
        if batch_size < 1:
            raise UsageError(f"engine.batch_size is {batch_size}: give at least 1.")
        if tensor_parallel_size < 1:
            raise UsageError(f"engine.tensor_parallel_size is {tensor_parallel_size}: give at least 1.")
        self.device_name = _usable(device)
        self.tensor_parallel_size = tensor_parallel_size
        self.batch_size = batch_size
        self._model: PreTrainedModel | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Precision in which the engine takes weights."""
        dtype = self.model.dtype
        assert isinstance(dtype, torch.dtype)
        return dtype

    @property
    def model(self) -> PreTrainedModel:
        """The engine's own copy of the model; its weights are those loaded last."""
        if self._model is None:
            raise RuntimeError("the engine is not started: call start(folder, max_length) first.")
        return self._model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the model folder; it pads on the left."""
        if self._tokenizer is None:
            raise RuntimeError("the engine is not started: call start(folder, max_length) first.")
        return self._tokenizer

    def check(self, folder: Path) -> None:
        """Refuse more ranks than key-value heads, which transformers does not repeat as vLLM does.

        Raises:
            UsageError: the number of ranks does not divide them.
        """
        from transformers import AutoConfig

        size = self.tensor_parallel_size
        config = AutoConfig.from_pretrained(folder, trust_remote_code=self.trust_remote_code)
        shared = getattr(config.get_text_config(), "num_key_value_heads", None) or size
        if shared % size:
            raise UsageError(
                f"engine.tensor_parallel_size is {size}, and HFEngine cannot divide the model's {shared} "
                "key-value heads by it: choose a size that divides them, or VLLMEngine."
            )

    def start(self, folder: Path, max_length: int) -> None:
        """Load model and tokenizer; ``max_length`` is not needed, since nothing is allocated beforehand.

        Raises:
            UsageError: the files do not hold all of the model.
        """
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        trust = self.trust_remote_code
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
        device = _device(self.device_name)
        dtype = model_dtype(self.dtype_name, config.dtype or torch.float32, device, tell=True)
        model, found = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=trust, output_loading_info=True
        )
        if missing := sorted(found["missing_keys"]):
            raise UsageError(
                f"{len(missing)} tensors are missing in {folder}, the first is {missing[0]}, and random ones "
                "would take their place: get the model's files anew, or give another model.base."
            )
        self._model = model.to(device).eval().requires_grad_(False)
        if self.tensor_parallel_size > 1:
            split(self.model, self.tensor_parallel_size)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=trust)
        self._end_ids = end_ids(self.model.generation_config, self.tokenizer)
        # The folder's own generation defaults (penalties, top_k) would change what `Sampling` asks for.
        self.model.generation_config = self._generation_config()

    @torch.no_grad()
    def load_weights(self, named_tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Copy every tensor into the parameter or buffer of its name.

        Raises:
            KeyError: a name is unknown to the model or comes twice, or a parameter gets no tensor.
        """
        missing, buffers = dict(self.model.named_parameters()), persistent_buffers(self.model)
        for name, tensor in named_tensors:
            if name in buffers:
                buffers[name].copy_(tensor)
                continue
            if name not in missing:
                raise KeyError(f"{name} is no parameter of the model, or came twice.")
            parameter = missing.pop(name)
            parameter.copy_(part_for(parameter, tensor))
        if missing:
            raise KeyError(f"{len(missing)} parameters got no weights, the first is {next(iter(missing))}.")

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        """Complete every prompt; batches take prompts of similar length, longest first, to pad little."""
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i].token_ids))
        completions: dict[int, list[Completion]] = {}
        for first in range(0, len(order), self.batch_size):
            rows = order[first : first + self.batch_size]
            batch = self._generate_batch([prompts[i].token_ids for i in rows], sampling, seed_offset=first)
            completions.update(
                {row: batch[k * sampling.n : (k + 1) * sampling.n] for k, row in enumerate(rows)}
            )
        return [completion for i in range(len(prompts)) for completion in completions[i]]

    @torch.no_grad()
    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return the log-probability of each token given those before it.

        Sequences of one length share a batch, so that none is padded.
        """
        return self._by_length(sequences, self._whole)

    @torch.no_grad()
    def choice_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return the same; what a batch begins with, such as a system prompt, is computed once."""
        return self._by_length(sequences, self._from_beginning)

    @torch.no_grad()
    def distributions(
        self, sequences: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]
    ) -> Iterator[Tensor]:
        """Yield the log-probabilities of the whole vocabulary at some positions; sequences are not padded."""
        for sequence, asked in zip(sequences, positions, strict=True):
            ids = torch.tensor([list(sequence)], device=self.model.device)
            places = torch.tensor(asked, dtype=torch.long, device=self.model.device) - 1
            yield self.model(ids).logits[0, places].float().log_softmax(-1).cpu()

    def close(self) -> None:
        """Drop the model."""
        self._model = self._tokenizer = None

    def _by_length(
        self, sequences: Sequence[Sequence[int]], score: Callable[[Tensor], Tensor]
    ) -> list[Tensor]:
        """Score batches of sequences of one length, and put the scores in the order of the sequences."""
        result: dict[int, Tensor] = {}
        for rows in self._of_one_length(sequences):
            ids = torch.tensor([list(sequences[row]) for row in rows], device=self.model.device)
            result.update(zip(rows, score(ids).cpu(), strict=True))
        return [result[row] for row in range(len(sequences))]

    def _whole(self, ids: Tensor) -> Tensor:
        """Return the log-probabilities, float32 [rows, length - 1], of token ids [rows, length]."""
        return _logprobs(self.model(ids, use_cache=False).logits, ids[:, 1:])

    def _from_beginning(self, ids: Tensor) -> Tensor:
        """Return the same, with one pass over what all rows begin with, where that pays."""
        shared = _shared(ids)
        if (len(ids) - 1) * shared < WORTH_SHARING:
            return self._whole(ids)
        start = self.model(ids[:1, :shared], use_cache=True)
        cache = start.get("past_key_values")
        if not _repeatable(cache):
            return self._whole(ids)
        cache.batch_repeat_interleave(len(ids))
        rest = self.model(ids[:, shared:], past_key_values=cache)
        first = _logprobs(start.logits, ids[:, 1 : shared + 1])
        return torch.cat([first, _logprobs(rest.logits, ids[:, shared + 1 :])], dim=1)

    def _of_one_length(self, sequences: Sequence[Sequence[int]]) -> Iterator[Sequence[int]]:
        """Yield the indices of sequences of one length, as many as make a batch, with like beginnings."""
        order = sorted(range(len(sequences)), key=lambda row: (len(sequences[row]), tuple(sequences[row])))
        for length, alike in groupby(order, key=lambda row: len(sequences[row])):
            rows = list(alike)
            at_once = max(1, min(self.batch_size, LOGITS_AT_ONCE // max(length, 1)))
            yield from (rows[first : first + at_once] for first in range(0, len(rows), at_once))

    def _generate_batch(
        self, token_ids: Sequence[tuple[int, ...]], sampling: Sampling, seed_offset: int
    ) -> list[Completion]:
        width = max(map(len, token_ids))
        ids = torch.full((len(token_ids), width), self._pad_id, device=self.model.device)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(token_ids):
            ids[row, width - len(tokens) :] = torch.tensor(tokens, device=ids.device)
            mask[row, width - len(tokens) :] = 1
        rows = [tokens for tokens in token_ids for _ in range(sampling.n)]
        with torch.random.fork_rng(devices=[ids.device] if ids.is_cuda else []):
            torch.manual_seed(sampling.seed + seed_offset)  # the offset gives each batch its own numbers
            output = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=self._generation_config(sampling),
                logits_processor=[_refuse_infinite],
                stopping_criteria=[_AtStops(self._completing(rows, sampling))] if sampling.stop else [],
            )
        completing = self._completing(rows, sampling)
        for completion, tokens in zip(completing, output[:, width:].tolist(), strict=True):
            for token in tokens:
                completion.add(token)
            completion.finish()
        return [
            Completion(each.text, tuple(each.tokens), "stop" if each.has_ended else "length")
            for each in completing
        ]

    def _completing(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Completing]:
        return [Completing(self.tokenizer, prompt, self._end_ids, sampling.stop) for prompt in prompts]

    @property
    def _pad_id(self) -> int:
        # Any token will do if the tokenizer has neither: padding is masked, or comes after the end.
        pad = self.tokenizer.pad_token_id
        return next(iter(self._end_ids), 0) if pad is None else int(pad)

    def _generation_config(self, sampling: Sampling | None = None) -> GenerationConfig:
        from transformers import GenerationConfig

        options: dict[str, Any] = {
            "eos_token_id": list(self._end_ids) or None,
            "pad_token_id": self._pad_id,
        }
        if sampling is not None:
            options |= {"max_new_tokens": sampling.max_tokens, "do_sample": sampling.temperature > 0}
            options |= {"num_return_sequences": sampling.n}
            if sampling.temperature > 0:
                # top_k=0 switches off transformers' default of 50.
                options |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        return GenerationConfig(**options)


class _AtStops:
    """Tells transformers which rows a stop string has ended; its own criterion reads the prompt as well."""

    def __init__(self, completing: Sequence[Completing]) -> None:
        self._completing = completing

    def __call__(self, ids: Tensor, scores: Any) -> Tensor:
        for completion, token in zip(self._completing, ids[:, -1].tolist(), strict=True):
            completion.add(token)
        return torch.tensor([completion.has_ended for completion in self._completing], device=ids.device)


def _shared(ids: Tensor) -> int:
    """Return how many tokens all rows begin with; at most all but the last."""
    same = (ids[:, :-1] == ids[:1, :-1]).all(dim=0)
    return int(same.cumprod(0).sum())


def _repeatable(cache: Any) -> bool:
    """Return whether a cache has keys and values alone; models with another state compute rows whole."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    layers = getattr(cache, "layers", ())
    return bool(layers) and {type(layer) for layer in layers} <= {DynamicLayer, DynamicSlidingWindowLayer}


def _logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probabilities, float32 [rows, T], of tokens [rows, T].

    Args:
        logits: [rows or 1, T or more, vocabulary].
        tokens: what comes at each position.
    """
    logits = logits[:, : tokens.shape[1]].float()
    chosen = logits.expand(len(tokens), -1, -1).gather(2, tokens[..., None])[..., 0]
    return chosen - logits.logsumexp(-1)


def _refuse_infinite(ids: Tensor, logits: Tensor) -> Tensor:
    """Check a step's logits before a token is drawn from them; their largest one tells of any NaN, too."""
    require_finite([logits.amax()])
    return logits


def _usable(name: str) -> str:
    """Return the name of a device that is there.

    Raises:
        UsageError: there is no such device.
    """
    if name == "auto":
        return name
    there = {"cpu"}
    if (accelerator := torch.accelerator.current_accelerator(check_available=True)) is not None:
        places = (f"{accelerator.type}:{index}" for index in range(torch.accelerator.device_count()))
        there |= {accelerator.type, *places}
    if name not in there:
        raise UsageError(f"engine.device is {name}: give auto, or one of {', '.join(sorted(there))}.")
    return name


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator or torch.device("cpu")
