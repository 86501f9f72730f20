"""Engines against one another: log-probabilities and greedy texts of the centre and of perturbed members.

Each engine has a process of its own, in which ``numbers`` writes what it has computed for ``compare``.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu_check.measure import peak_gb, start_peak, synchronize
from benchmarks.gpu_check.rows import AGREES, DIFFERS, MEASURED, Row, Settings
from es_lightning.algorithm.noise import GaussianNoise, LowRankNoise, Noise
from es_lightning.algorithm.population import Population
from es_lightning.evaluation import Rollouts
from es_lightning.evaluation.comparison import BOUND, COARSE_BOUND, FACTOR
from es_lightning.evaluation.members import adapters
from es_lightning.evaluation.reach import within_reach
from es_lightning.models import BaseModel
from es_lightning.records import Completion, Prompt
from es_lightning.rollout import (
    AdapterEngine,
    HFEngine,
    RolloutEngine,
    Sampling,
    VLLMAdapterEngine,
    VLLMEngine,
)

PROMPTS, TOKENS, ROOM = 8, 24, 96
CENTRE, MEMBERS = "centre", 2
RUNNER = "VLLM_USE_V2_MODEL_RUNNER"  # 0 or 1; unset, vLLM chooses


@dataclass(frozen=True)
class Case:
    """One engine.

    Args:
        kind: ``hf``, ``vllm`` or ``adapters``.
        runner: which of vLLM's model runners to ask for; None leaves the choice to vLLM.
        compiled: whether vLLM compiles, and records graphs on an accelerator.
        dtype: in place of that of all engines.
    """

    kind: str
    runner: str | None = None
    compiled: bool = False
    dtype: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Variables that vLLM reads when it is imported."""
        return {} if self.runner is None else {RUNNER: str(int(self.runner == "V2"))}

    def engine(self, settings: Settings) -> RolloutEngine:
        """Make the engine, and do not start it."""
        dtype: Any = self.dtype or settings.dtype
        if self.kind == "hf":
            return HFEngine(dtype, device=settings.device)
        kind = VLLMEngine if self.kind == "vllm" else VLLMAdapterEngine
        options: dict[str, Any] = (
            {"kv_cache_gib": 1} if settings.device == "cpu" else {"memory_fraction": 0.6}
        )
        return kind(dtype=dtype, enforce_eager=not self.compiled, **options)


REFERENCE, YARDSTICK = "HFEngine, float32", "HFEngine"
CASES: dict[str, Case] = {
    REFERENCE: Case("hf", dtype="float32"),
    YARDSTICK: Case("hf"),
    "VLLMEngine, V1": Case("vllm", "V1"),
    "VLLMEngine, V2": Case("vllm", "V2"),
    "VLLMEngine, compiled": Case("vllm", compiled=True),
    "VLLMAdapterEngine, V1": Case("adapters", "V1"),
    "VLLMAdapterEngine, V2": Case("adapters", "V2"),
}


@dataclass
class Numbers:
    """What an engine has computed; weights are called ``centre``, ``member 0``, ``thin 0`` and so on."""

    dtype: str = ""
    runner: str = ""
    start_seconds: float = 0.0
    load_seconds: float = 0.0
    peak_gb: float = 0.0
    logprobs: dict[str, list[float]] = field(default_factory=dict)
    tokens: dict[str, list[list[int]]] = field(default_factory=dict)


def why_not(case: Case, settings: Settings) -> str:
    """Say why an engine cannot be tried here; empty if it can."""
    if case.kind == "hf":
        return ""
    try:
        from vllm import envs
        from vllm.platforms import current_platform
        from vllm.triton_utils import HAS_TRITON
    except ImportError:
        return "vLLM is not installed"
    if current_platform.device_type != settings.device:
        return f"this vLLM is for {current_platform.device_type}"
    if case.runner and RUNNER not in envs.environment_variables:
        return "this vLLM has one model runner"
    if case.runner == "V2" and not HAS_TRITON:
        return "vLLM's runner V2 needs Triton"
    if case.compiled and settings.device == "cpu":
        return "on CPUs compiling takes minutes"
    return ""


def numbers(settings: Settings, case: Case, path: Path) -> Iterator[Row]:
    """Compute with an engine, and write its numbers into a file."""
    base, found = BaseModel(settings.base), Numbers()
    centre: nn.Module = base.load()
    engine = case.engine(settings)
    rollouts = Rollouts(engine, Sampling(max_tokens=TOKENS))
    prompts = rollouts.reserve(
        base, [Prompt(str(k), f"What is {k} + {3 * k}?") for k in range(1, PROMPTS + 1)]
    )
    thin = _thin(base, centre)
    if isinstance(engine, AdapterEngine):
        limited = rollouts.limited(LowRankNoise(1, "frozen"), base, centre, MEMBERS)
        if limited.identity != thin.identity:
            raise RuntimeError(f"it freezes other parameters: {limited.identity}, and not {thin.identity}")
    start_peak(settings.device)
    began = time.perf_counter()
    rollouts.start(base)
    found.start_seconds = time.perf_counter() - began
    if case.kind != "hf":
        config = engine.llm.llm_engine.vllm_config  # type: ignore[attr-defined]
        found.runner = "V2" if config.use_v2_model_runner else "V1"
    found.dtype = str(engine.dtype).removeprefix("torch.")
    centre.to(settings.device)  # after the engine has started, which takes a share of what is free
    _compute(settings, rollouts, centre, thin, prompts, found)
    found.peak_gb = peak_gb(settings.device)
    path.write_text(json.dumps(vars(found)), "utf-8")
    runner = f", runner {found.runner}" if found.runner else ""
    yield Row(
        "engine",
        f"{found.dtype}{runner}, started in {found.start_seconds:.1f} s, loads the centre in "
        f"{found.load_seconds:.2f} s, peak {found.peak_gb:.2f} GB",
    )


def _thin(base: BaseModel, centre: nn.Module) -> Noise:
    """Return noise of rank 1 on what adapters reach, so that every engine can have the same members."""
    model = base.blueprint
    head = model.get_output_embeddings()
    linear = {
        f"{path}.weight"
        for path, module in model.named_modules()
        if type(module) is nn.Linear and module is not head
    }
    shapes = {name: theta.shape for name, theta in centre.named_parameters()}
    return within_reach(LowRankNoise(1, "frozen"), shapes, linear, "VLLMAdapterEngine")


@torch.no_grad()
def _compute(
    settings: Settings,
    rollouts: Rollouts,
    centre: nn.Module,
    thin: Noise,
    prompts: Sequence[Prompt],
    found: Numbers,
) -> None:
    """Load the centre and members one after the other, or as adapters; fill in what comes of them."""
    engine, members = rollouts.engine, Population(MEMBERS, settings.seed).members(0)

    def keep(name: str, logprobs: Sequence[Tensor], completions: Sequence[Completion]) -> None:
        found.logprobs[name] = torch.cat(list(logprobs)).tolist()
        found.tokens[name] = [list(each.token_ids) for each in completions]

    rollouts.load(rollouts.unperturbed(centre))  # the first time takes longer
    began = time.perf_counter()
    rollouts.load(rollouts.unperturbed(centre))
    synchronize(settings.device)
    found.load_seconds = time.perf_counter() - began
    keep(CENTRE, engine.logprobs(rollouts.sample), rollouts.complete(prompts))
    if isinstance(engine, AdapterEngine):
        engine.load_adapters(adapters(centre, members, thin, settings.sigma))
        logprobs, completions = (
            engine.logprobs_each(rollouts.sample),
            engine.generate_each(prompts, rollouts.sampling),
        )
        for member in members:
            keep(f"thin {member.index}", logprobs[member.index], completions[member.index])
        return
    for kind, noise in (("member", GaussianNoise()), ("thin", thin)):
        for member in members:
            rollouts.load(rollouts.perturbed(centre, member, noise, settings.sigma))
            keep(f"{kind} {member.index}", engine.logprobs(rollouts.sample), rollouts.complete(prompts))


def compare(settings: Settings, name: str, found: Numbers, others: dict[str, Numbers]) -> Iterator[Row]:
    """Compare an engine with transformers in float32; in half precision transformers is off as well.

    Args:
        settings: of the check.
        name: of the engine.
        found: its numbers.
        others: those of all engines.
    """
    if name == REFERENCE:
        return
    reference, yardstick = others[REFERENCE], others.get(YARDSTICK)
    is_exact = found.dtype == "float32" and settings.device == "cpu"
    for weights, logprobs in found.logprobs.items():
        exact = torch.tensor(reference.logprobs[weights])
        off = (torch.tensor(logprobs) - exact).abs()
        moved = float((exact - torch.tensor(reference.logprobs[CENTRE])).abs().median())
        bound, difference = BOUND, float(off.max()) if is_exact else float(off.median())
        if not is_exact:
            bound = COARSE_BOUND if found.dtype == "float32" else BOUND
            if yardstick is not None and name != YARDSTICK:
                own = (torch.tensor(yardstick.logprobs[weights]) - exact).abs()
                bound = max(bound, FACTOR * float(own.median()))
        is_right = math.isfinite(difference) and difference <= bound
        verdict = AGREES if is_right else DIFFERS
        if name == YARDSTICK and not is_exact:
            verdict, allowed = MEASURED, "the yardstick of the others"
        else:
            allowed = f"{bound:.1e} are allowed"
        effect = "" if weights == CENTRE else f"; this member moves them by {moved:.1e}"
        kind = "largest" if is_exact else "median"
        yield Row(
            f"log-probabilities, {weights}", f"{kind} {difference:.1e} nats, {allowed}{effect}", verdict
        )
    yield _texts(found, reference, is_exact)


def _texts(found: Numbers, reference: Numbers, is_exact: bool) -> Row:
    """Count equal greedy texts; where numbers are rounded otherwise, some may differ at near ties."""
    pairs = [
        (ours, theirs)
        for weights, texts in found.tokens.items()
        for ours, theirs in zip(texts, reference.tokens[weights], strict=True)
    ]
    same = sum(ours == theirs for ours, theirs in pairs)
    verdict = MEASURED if not is_exact else AGREES if same == len(pairs) else DIFFERS
    return Row("greedy texts", f"{same} of {len(pairs)} are those of {REFERENCE}", verdict)
