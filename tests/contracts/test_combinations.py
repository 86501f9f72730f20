"""Random combinations of parts: finite, resumed and replayed bit for bit, as long as the norm law says."""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LRScheduler, StepLR

from es_lightning.algorithm import shaping
from es_lightning.algorithm.noise import (
    CorrelatedNoise,
    FilteredNoise,
    GaussianNoise,
    LowRankNoise,
    Noise,
    RademacherNoise,
    noise_of,
)
from es_lightning.algorithm.population import Population
from es_lightning.algorithm.regularisers import AnchoredDecay, ClipNorm, Regulariser, SparseUpdate
from es_lightning.algorithm.schedules import (
    CosineSchedule,
    LinearSchedule,
    ListedSchedule,
    Schedule,
    Scheduled,
    SignalRule,
    SuccessRule,
)
from es_lightning.algorithm.shaping import weigh
from es_lightning.algorithm.tensors import checksum, drift
from es_lightning.algorithm.update import apply_update
from es_lightning.datamodule import TaskDataModule
from es_lightning.grading.scorer import Grading
from es_lightning.journal.entry import JOURNAL, Entry
from es_lightning.journal.hyper import describe_optimizer, hyper_parameters
from es_lightning.journal.parts import describe_regulariser, optimizer_of, regulariser_of
from es_lightning.journal.replay import repeat, replay
from es_lightning.records import Generation
from tests.helpers.fits import Letters, Records, module, trainer


class Net(nn.Module):
    """Two matrices of equal shape and a bias, so that every kind of noise finds its case."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        for name, shape in {"q": (40, 50), "k": (40, 50), "bias": (60,)}.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape, generator=generator)))


class Stored:
    """The first weights of the net, as a base model's files."""

    def __init__(self) -> None:
        self.tensors = {name: each.detach() for name, each in Net().named_parameters()}

    def read(self, name: str) -> Tensor:
        """One tensor."""
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors


T, N, LR = 3, 4, 0.02


@dataclass(frozen=True)
class Parts:
    """A combination, whose parts are made anew for every process that needs them."""

    noise: Noise
    shape: Callable[[Tensor], Tensor]
    antithetic: bool
    sigma_schedule: Callable[[], Schedule] | None
    population_schedule: Callable[[], Schedule] | None
    regularisers: tuple[Callable[[], Regulariser], ...]
    optimizer: Callable[[Iterable[Any]], Optimizer]
    scheduler: Callable[[Optimizer], LRScheduler] | None

    @property
    def has_law(self) -> bool:
        """Whether the norm law applies."""
        schedules = (self.sigma_schedule, self.population_schedule, self.scheduler)
        full = isinstance(self.noise, GaussianNoise | RademacherNoise)
        plain = self.optimizer is sgd and not self.regularisers and not any(schedules)
        return plain and full and self.shape is shaping.z_score and not self.antithetic


def sgd(parameters: Iterable[Any]) -> Optimizer:
    return SGD(parameters, lr=LR)


PLAIN: list[Noise] = [
    GaussianNoise(compile=False),
    RademacherNoise(compile=False),
    CorrelatedNoise(compile=False),
    LowRankNoise(1, compile=False),
    LowRankNoise(2, "frozen", compile=False),
]
SHAPINGS = [
    shaping.z_score,
    shaping.none,
    shaping.centered_rank,
    shaping.leave_one_out,
    shaping.prompt_centred,
    shaping.prompt_z_score,
    shaping.best_of_n,
    shaping.FixedScale(0.5),
    shaping.Shuffled(),
]
SIGMAS: list[Callable[[], Schedule]] = [
    SuccessRule,
    SignalRule,
    lambda: CosineSchedule(T),
    lambda: ListedSchedule([1.0, 2.0]),
]
REGULARISERS: list[Callable[[], Regulariser]] = [
    lambda: AnchoredDecay(l2=5.0),
    lambda: AnchoredDecay(l1=0.01),
    lambda: ClipNorm(3.0),
    lambda: SparseUpdate(0.2),
    lambda: SparseUpdate(0.2, "model"),
]
OPTIMIZERS: list[Callable[[Iterable[Any]], Optimizer]] = [
    sgd,
    lambda p: SGD(p, lr=LR, momentum=0.9, nesterov=True),
    lambda p: Adam(p, lr=LR),
    lambda p: AdamW(p, lr=LR, weight_decay=0.1),
]
SCHEDULERS: list[Callable[[Optimizer], LRScheduler]] = [
    lambda optimizer: CosineAnnealingLR(optimizer, T),
    lambda optimizer: ExponentialLR(optimizer, 0.7),
    lambda optimizer: StepLR(optimizer, 2),
]


def combinations(names: str) -> st.SearchStrategy[Parts]:
    """Any combination of parts; ``names`` is a pattern of parameters that a filter leaves alone."""
    filtered = [FilteredNoise(kind, exclude=[names]) for kind in PLAIN]
    return st.builds(
        Parts,
        noise=st.sampled_from(PLAIN + filtered),
        shape=st.sampled_from(SHAPINGS),
        antithetic=st.booleans(),
        sigma_schedule=st.none() | st.sampled_from(SIGMAS),
        population_schedule=st.sampled_from([None, lambda: LinearSchedule(T, 2.0)]),
        regularisers=st.lists(st.sampled_from(REGULARISERS), max_size=3).map(tuple),
        optimizer=st.sampled_from(OPTIMIZERS),
        scheduler=st.none() | st.sampled_from(SCHEDULERS),
    )


# Without a model -----------------------------------------------------------------------------------


class Climb:
    """A run of the net with a combination of parts; its state can be kept and given to another one."""

    def __init__(self, parts: Parts) -> None:
        self.parts, self.net, self.base = parts, Net(), Stored()
        self.optimizer = parts.optimizer(self.net.parameters())
        self.header = {
            "optimizer": describe_optimizer(self.optimizer),
            "noise": parts.noise.identity,
            "regularisers": [describe_regulariser(make()) for make in parts.regularisers],
        }
        self.regularisers = [make() for make in parts.regularisers]
        self.scheduler = parts.scheduler(self.optimizer) if parts.scheduler else None
        self.sigma = Scheduled(0.05, parts.sigma_schedule() if parts.sigma_schedule else None)
        self.size = Scheduled(N, parts.population_schedule() if parts.population_schedule else None)

    def rewards(self, member: Any, sigma: float, t: int) -> list[float]:
        """What a member earns for three prompts: a curved function of its weights, and noise per prompt."""
        scale = member.sign * sigma
        moved = self.parts.noise.perturbed(member.seed, "q", self.net.q, scale, torch.float32)
        total = float(torch.sin(moved.double()).sum())
        return [total + math.sin(1e3 * total * (prompt + 1) + t) for prompt in range(3)]

    def step(self, t: int) -> Entry:
        """One generation, and its entry."""
        population = Population(N, 1, self.parts.antithetic).resized(self.size.at(t))
        sigma, members = self.sigma.at(t), population.members(t)
        rewards = torch.tensor([self.rewards(each, sigma, t) for each in members], dtype=torch.float64)
        weights, skipped = weigh(rewards, self.parts.shape)
        hyper = hyper_parameters(self.optimizer)
        if not skipped:
            named = self.net.named_parameters()
            parts = (members, weights, self.parts.noise, self.base, self.regularisers)
            apply_update(self.optimizer, named, *parts)
        for each in filter(None, (self.sigma.schedule, self.size.schedule)):
            each.observe(rewards, (), self.parts.antithetic)
        if self.scheduler is not None:
            self.scheduler.step()
        record = Generation(
            t, members, (), rewards, weights, sigma, hyper["lr"], skipped, 0.0, 0.0, {}, 0, {}, (), {}
        )
        return Entry.of(record, hyper, checksum(self.net.named_parameters()))

    def save(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        schedules = [each.schedule for each in (self.sigma, self.size)]
        return copy.deepcopy(
            {
                "net": self.net.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict() if self.scheduler else None,
                "schedules": [each.state_dict() if each else None for each in schedules],
            }
        )

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what ``save`` returned."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        for each, kept in zip((self.sigma, self.size), state["schedules"], strict=True):
            if each.schedule is not None:
                each.schedule.load_state_dict(kept)


def replayed(climb: Climb, lines: Sequence[str]) -> list[str]:
    """The centres that a journal's header and lines lead to, with nothing else of the run."""
    net, header = Net(), climb.header
    optimizer = optimizer_of(header["optimizer"], net)
    regularisers = [regulariser_of(each) for each in header["regularisers"]]
    found = []
    for line in lines:
        repeat(Entry.parse(line), net, optimizer, noise_of(header["noise"]), climb.base, regularisers)
        found.append(checksum(net.named_parameters()))
    return found


def holds(parts: Parts) -> None:
    whole, entries, states = Climb(parts), [], []
    for t in range(T):
        states.append(whole.save())
        entries.append(whole.step(t))
    assert all(bool(each.isfinite().all()) for each in whole.net.parameters())
    assert len({entry.checksum for entry in entries}) == T, "every generation moves the centre"
    lines = [entry.line() for entry in entries]
    assert replayed(whole, lines) == [entry.checksum for entry in entries]
    resumed = Climb(parts)
    resumed.load(states[1])
    assert [resumed.step(t).line() for t in range(1, T)] == lines[1:]
    for name, theta in whole.net.named_parameters():
        is_frozen = not parts.noise.perturbs(name, theta.shape)
        assert torch.equal(theta, whole.base.read(name)) == is_frozen
    if parts.has_law:
        d = sum(each.numel() for each in whole.net.parameters())
        # ||delta||^2 / (variance d) is chi^2_d / d for Gaussian noise: sqrt(1 / 2d) is 1 %.
        assert float(drift(whole.base, whole.net)) == pytest.approx(LR * math.sqrt(T * d / N), rel=0.05)


@settings(max_examples=12)
@given(combinations("bias"))
@pytest.mark.slow
def test_any_combination_is_finite_resumes_and_replays(parts: Parts) -> None:
    holds(parts)


@pytest.mark.slow
@settings(max_examples=250)
@given(combinations("bias"))
def test_many_combinations_are_finite_resume_and_replay(parts: Parts) -> None:
    holds(parts)


@pytest.mark.parametrize("noise", PLAIN[:2])
def test_plain_combinations_have_the_norm_of_the_law(noise: Noise) -> None:
    parts = Parts(noise, shaping.z_score, False, None, None, (), sgd, None)
    assert parts.has_law
    holds(parts)


# With the tiny model -------------------------------------------------------------------------------


def fitted(parts: Parts, folder: Path, checkpoint: Path | None = None) -> tuple[Any, Records]:
    records = Records()
    tuned = module(
        noise=parts.noise,
        shaping=parts.shape,
        antithetic=parts.antithetic,
        sigma_schedule=parts.sigma_schedule() if parts.sigma_schedule else None,
        population_schedule=parts.population_schedule() if parts.population_schedule else None,
        regularisers=[make() for make in parts.regularisers],
        population=N,
        optimizer=parts.optimizer,
        lr_scheduler=parts.scheduler,
    )
    saving = ModelCheckpoint(folder / "checkpoints", "{step}", every_n_train_steps=1, save_top_k=-1)
    fitting = trainer(folder, T, [records, saving], enable_checkpointing=True)
    fitting.fit(tuned, TaskDataModule(Letters(), grading=Grading(workers=0)), ckpt_path=checkpoint)
    return tuned, records


def fits_hold(parts: Parts, folder: Path) -> None:
    whole, records = fitted(parts, folder / "whole")
    assert all(bool(each.isfinite().all()) for each in whole.centre.parameters())
    resumed, after = fitted(parts, folder / "resumed", folder / "whole" / "checkpoints" / "step=1.ckpt")
    assert after.checksums[-1] == records.checksums[-1]
    assert [each.sigma for each in after.generations] == [each.sigma for each in records.generations[1:]]
    assert replay(folder / "whole" / JOURNAL, folder / "model").checksum == records.checksums[-1]
    if parts.has_law:
        d = sum(each.numel() for each in whole.centre.parameters())
        updates = sum(not each.skipped for each in records.generations)
        assert float(whole.drift) == pytest.approx(LR * math.sqrt(updates * d / N), rel=0.02)


@pytest.mark.slow
@settings(max_examples=8)
@given(parts=combinations("*norm*"))
def test_fits_of_any_combination_resume_and_replay(
    parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> None:
    fits_hold(parts, tmp_path_factory.mktemp("fits"))
