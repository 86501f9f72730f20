"""vLLM in this process. Its own loaders take the weights, since they know every fused or packed layout."""

import importlib.util
import logging
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, distributed

from es_lightning.errors import UsageError
from es_lightning.records import Completion, Prompt
from es_lightning.rollout.checkpoint_form import CheckpointForm
from es_lightning.rollout.engine import DTypeName, RolloutEngine, Sampling, model_dtype, require_finite
from es_lightning.rollout.own_classes import own_classes
from es_lightning.rollout.text import with_its_end
from es_lightning.rollout.vllm_environment import (
    CPU_SHARE,
    free_share,
    model_errors,
    prepare_environment,
    remove_stale_memory,
)
from es_lightning.rollout.vllm_in_place import obstacle, write
from es_lightning.rollout.vllm_reload import reload

log = logging.getLogger(__name__)
GIB = 2**30
PROBE = 4  # tokens that are read to see whether new weights give finite log-probabilities

LoadName = Literal["auto", "in_place", "reload"]


class VLLMEngine(RolloutEngine):
    """Generates with vLLM inside this process.

    Args:
        dtype: precision of the weights; ``auto``: the base model's own, but on CPUs without instructions for
            bfloat16 float32, which is faster there.
        enforce_eager: skip compilation; the engine starts sooner and generates more slowly.
        memory_fraction: share of the device's memory that vLLM may take for weights and cache, in (0, 1];
            None takes what is free at the start, but for 2 % of the device and what an update needs; on CPUs
            0.8.
        tensor_parallel_size: number of consecutive ranks that hold one copy of the model together and
            evaluate the same members; the number of ranks and the model's heads must divide by it.
        kv_cache_gib: size of the key-value cache in GiB; None derives it from ``memory_fraction``.
        prefix_caching: compute what prompts begin with in common once per member, in blocks of 16 tokens on
            GPUs and 128 on CPUs; None lets vLLM decide, which does so for all models that it can.
        trust_remote_code: run Python code that comes with the model folder.
        options: further keyword arguments of ``vllm.LLM``; they override those above.
        load: how new weights get into vLLM. ``reload`` has it rebuild each layer, which is right for every
            model; ``in_place`` copies them into its tensors, which is faster, and right where vLLM keeps
            these as they were loaded: in dense models on GPUs. ``auto`` copies them if the check of the
            engine finds that both ways give the same, and else reloads.

    Raises:
        UsageError: vLLM is not installed, or a value is outside its range.
    """

    def __init__(
        self,
        dtype: DTypeName = "auto",
        enforce_eager: bool = False,
        memory_fraction: float | None = None,
        kv_cache_gib: float | None = None,
        tensor_parallel_size: int = 1,
        prefix_caching: bool | None = None,
        trust_remote_code: bool = False,
        options: Mapping[str, Any] | None = None,
        load: LoadName = "auto",
    ) -> None:
        super().__init__(dtype, trust_remote_code)
        if importlib.util.find_spec("vllm") is None:
            raise UsageError(
                "vLLM is not installed: install the extra for your machine, pip install 'es-lightning[cpu]' "
                "or 'es-lightning[gpu]', or choose --model.engine HFEngine."
            )
        if memory_fraction is not None and not 0 < memory_fraction <= 1:
            raise UsageError(
                f"engine.memory_fraction is {memory_fraction}: give a number above 0 and at most 1."
            )
        if kv_cache_gib is not None and kv_cache_gib <= 0:
            raise UsageError(f"engine.kv_cache_gib is {kv_cache_gib}: give a number above 0.")
        if tensor_parallel_size < 1:
            raise UsageError(f"engine.tensor_parallel_size is {tensor_parallel_size}: give at least 1.")
        if load not in get_args(LoadName):
            raise UsageError(f"engine.load is {load}: give one of {', '.join(get_args(LoadName))}.")
        self.load = load
        self.enforce_eager = enforce_eager
        self.memory_fraction, self._left_free = memory_fraction, 0
        self.kv_cache_gib, self.prefix_caching = kv_cache_gib, prefix_caching
        self.tensor_parallel_size = tensor_parallel_size
        self.options = dict(options or {})
        self._dtypes: dict[Path, torch.dtype] = {}  # resolved once, since that is logged
        self._is_checked = False  # whether the present weights have given finite log-probabilities
        self._llm: Any = None  # a vllm.LLM; no annotation names it, since resolving that would load vLLM

    @property
    def llm(self) -> Any:
        """The running ``vllm.LLM``."""
        if self._llm is None:
            raise RuntimeError("the engine is not started: call start(folder, max_length) first.")
        return self._llm

    @property
    def dtype(self) -> torch.dtype:
        """Precision in which the engine takes weights."""
        dtype = self.llm.model_config.dtype
        assert isinstance(dtype, torch.dtype)
        return dtype

    def check(self, folder: Path) -> None:
        """Ask vLLM whether it can run the model, which it says from the configuration alone."""
        self._model_config(folder)

    def _model_config(self, folder: Path) -> Any:
        prepare_environment()
        with model_errors(folder):
            from vllm.engine.arg_utils import EngineArgs

            return EngineArgs(**self._model_options(folder)).create_model_config()

    def start(self, folder: Path, max_length: int) -> None:
        """Start vLLM with room for ``max_length`` tokens per sequence."""
        prepare_environment()
        from vllm import LLM
        from vllm.platforms import current_platform

        options = self._model_options(folder) | {
            "max_model_len": max_length,
            "enforce_eager": self.enforce_eager,
            "gpu_memory_utilization": self._share(),
            "enable_prefix_caching": self.prefix_caching,
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
        }
        # If the ranks have process groups already, these are not vLLM's and must outlive it.
        self._owns_processes = not distributed.is_initialized()
        if not self._owns_processes and distributed.get_world_size() > 1:
            # One engine per rank, within the process groups that the ranks have joined.
            options["distributed_executor_backend"] = "external_launcher"
            options["tensor_parallel_size"] = self.tensor_parallel_size
            remove_stale_memory()
        if self.kv_cache_gib is not None:
            options["kv_cache_memory_bytes"] = int(self.kv_cache_gib * GIB)
        if current_platform.is_cpu() and self.options.get("max_num_batched_tokens", max_length) >= max_length:
            # Where a full batch cuts a prompt in two, vLLM takes back the draw of a request with a seed, and
            # no CPU generator can do that: "CPU Generator does not use offset". A user's batches that are
            # shorter than a sequence have to cut it.
            options["enable_chunked_prefill"] = False
        options |= self._more_options()
        self._form = CheckpointForm(self._config(folder), self.trust_remote_code)
        # vLLM seeds the global generator when it starts.
        with model_errors(folder), own_classes(self._form.model) as separate, torch.random.fork_rng([]):
            self._llm = LLM(**(options | self.options))
            self.llm.apply_model(separate)
        self._choose_load()

    def _choose_load(self) -> None:
        """Find out whether weights may be written in place, which a check of the engine then verifies."""
        reason = obstacle(self.llm) if self.load != "reload" else "engine.load is reload"
        self.may_write_in_place = not reason
        if self.load == "in_place" and reason:
            self.close()
            raise UsageError(f"engine.load is in_place, but {reason}: take auto or reload.")
        self.in_place = self.may_write_in_place and (self.in_place or self.load == "in_place")
        if reason:
            log.debug("Weights are reloaded: %s.", reason)

    def refuse_in_place(self, reason: str) -> None:
        """Reload from now on, unless the user has asked for weights in place."""
        if self.load == "in_place":
            raise UsageError(f"engine.load is in_place, but {reason}: take auto or reload.")
        super().refuse_in_place(reason)

    def leave_free(self, size: int) -> None:
        """Take so many bytes less, unless a ``memory_fraction`` is given."""
        self._left_free = size

    def _share(self) -> float:
        """Return the share of the device's memory that vLLM may take.

        Raises:
            UsageError: too little of it is free.
        """
        from vllm.platforms import current_platform

        if self.memory_fraction is not None:
            return self.memory_fraction
        return CPU_SHARE if current_platform.is_cpu() else free_share(self._left_free)

    def _more_options(self) -> dict[str, Any]:
        """Return what a subclass asks of ``vllm.LLM`` besides."""
        return {}

    def _model_options(self, folder: Path) -> dict[str, Any]:
        options = {
            "model": str(folder),
            "dtype": self._dtype_option(folder),
            "trust_remote_code": self.trust_remote_code,
        }
        return options | {name: value for name, value in self.options.items() if name in options}

    def _config(self, folder: Path) -> Any:
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(folder, trust_remote_code=self.trust_remote_code)

    def _dtype_option(self, folder: Path) -> torch.dtype:
        """Return what to ask vLLM for, whose own ``auto`` turns float32 into bfloat16."""
        from vllm.platforms import current_platform

        if folder not in self._dtypes:
            stored = self._config(folder).dtype or torch.float32
            device = torch.device(current_platform.device_type)
            self._dtypes[folder] = model_dtype(self.dtype_name, stored, device, tell=True)
        return self._dtypes[folder]

    def load_weights(self, named_tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Stream weights through vLLM's own loaders; they keep the addresses that CUDA graphs refer to."""
        self._is_checked = False
        if self.in_place:
            write(self.llm, self._form(named_tensors))
        else:
            reload(self.llm, self._form.kind, self._form(named_tensors))
        # What is cached was computed with the weights before.
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM keeps parts of an earlier member's cache: a request is still running.")

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        """Complete every prompt; vLLM batches them itself."""
        self._check_weights(prompts)
        outputs = self._run([prompt.token_ids for prompt in prompts], self._decoding(prompts, sampling))
        return self._completions(outputs)

    def _decoding(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Any]:
        """Return vLLM's own parameters for every prompt."""
        from vllm import SamplingParams

        return [
            SamplingParams(
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                n=sampling.n,
                stop=sampling.stop or None,
                seed=_seed(sampling.seed, prompt) if sampling.temperature > 0 else None,
            )
            for prompt in prompts
        ]

    def _completions(self, outputs: Sequence[Any]) -> list[Completion]:
        return [
            Completion(self._text(output, sample), tuple(sample.token_ids), str(sample.finish_reason))
            for output in outputs
            for sample in output.outputs
        ]

    def _text(self, output: Any, sample: Any) -> str:
        if isinstance(sample.stop_reason, str):  # a stop string has cut it
            return str(sample.text)
        said = sample.token_ids[:-1] if sample.finish_reason == "stop" else sample.token_ids
        return with_its_end(sample.text, self.llm.get_tokenizer(), output.prompt_token_ids, said)

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return the log-probability of each token given the tokens before it."""
        return [prompt_logprobs(output) for output in self._run(sequences, self._scoring())]

    def _scoring(self) -> Any:
        from vllm import SamplingParams

        # prompt_logprobs=0 asks for the prompt's own tokens only; vLLM cannot generate less than one token.
        return SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)

    def close(self) -> None:
        """Drop the model and vLLM's process groups; groups that existed before it stay."""
        if self._llm is None:
            return
        from vllm.distributed import cleanup_dist_env_and_memory, destroy_model_parallel

        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        if self._owns_processes:
            cleanup_dist_env_and_memory()
        else:
            destroy_model_parallel()

    def _run(self, sequences: Sequence[Sequence[int]], params: Any, **more: Any) -> list[Any]:
        """Let vLLM work on sequences; leave nothing behind if that fails.

        Args:
            sequences: token ids.
            params: vLLM's parameters, for all sequences or for each.
            more: further arguments of ``vllm.LLM.generate``.
        """
        from vllm.inputs import TokensPrompt

        inputs = [TokensPrompt(prompt_token_ids=list(sequence)) for sequence in sequences]
        try:
            with torch.random.fork_rng(devices=[]):  # vLLM's sampler draws from the global generator
                outputs: list[Any] = self.llm.generate(inputs, params, use_tqdm=False, **more)
        except Exception:
            self._abort()
            raise
        return outputs

    def _check_weights(self, prompts: Sequence[Prompt]) -> None:
        """Read the end of the longest prompt, once per load of weights.

        This costs one forward pass over a few tokens. Log-probabilities of all generated tokens would be
        computed over the whole vocabulary at every step.
        """
        if not self._is_checked:
            require_finite(self.logprobs(probe_of(prompts)))
            self._is_checked = True

    def _abort(self) -> None:
        """Drop requests that a failure left behind; the next call would answer them with other weights."""
        engine = self.llm.llm_engine
        engine.abort_request(list(engine.output_processor.request_states), internal=True)


def probe_of(prompts: Sequence[Prompt]) -> list[Sequence[int]]:
    """Return the end of the longest prompt, if that has two tokens."""
    probe = max((prompt.token_ids for prompt in prompts), key=len)[-PROBE:]
    return [probe] if len(probe) > 1 else []


def prompt_logprobs(output: Any) -> Tensor:
    """Return the log-probabilities of a request's own tokens but the first."""
    tokens = output.prompt_token_ids or []
    entries = output.prompt_logprobs or []
    pairs = zip(tokens[1:], entries[1:], strict=True)
    return torch.tensor([entry[token].logprob for token, entry in pairs if entry is not None])


def _seed(seed: int, prompt: Prompt) -> int:
    """Return a prompt's own seed: with one seed for all, prompts would get the same random numbers."""
    return int.from_bytes(blake2b(f"{seed}/{prompt.id}".encode(), digest_size=4).digest(), "little")
