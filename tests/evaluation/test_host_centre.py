"""A centre in host memory: what passes through the device, and what stays; on a machine without one.

The meta device stands for an accelerator where only places count: it computes nothing. Tests marked gpu
compare the numbers.
"""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn

from es_lightning.algorithm.bounds import check_centre
from es_lightning.algorithm.noise import FilteredNoise, GaussianNoise, LowRankNoise, Noise, RademacherNoise
from es_lightning.algorithm.shares import Shards
from es_lightning.algorithm.tensors import checksum, distance_squared, drift
from es_lightning.algorithm.update import apply_update, gradient
from es_lightning.analysis.room import Case
from es_lightning.datamodule import TaskDataModule
from es_lightning.distributed.ranks import Ranks
from es_lightning.evaluation import Rollouts
from es_lightning.evaluation.centre_place import CentrePlace, case_of
from es_lightning.evaluation.members import adapters
from es_lightning.grading.scorer import Grading
from es_lightning.models import BaseModel
from es_lightning.module import EvolutionStrategies
from es_lightning.records import Member, Prompt
from es_lightning.rollout import HFEngine, Sampling
from es_lightning.system.page_lock import PageLock
from tests.helpers.fits import Letters, module, trainer

META, CPU = torch.device("meta"), torch.device("cpu")
NOISES: tuple[Noise, ...] = (
    GaussianNoise(compile=False),
    RademacherNoise(),
    LowRankNoise(rank=2),
    FilteredNoise(GaussianNoise(compile=False), exclude=["*norm*"]),
)
MEMBERS = [Member(0, 11, 1), Member(1, 11, -1), Member(2, 12, 1)]
WEIGHTS = torch.tensor([0.5, -1.0, 0.7], dtype=torch.float64)


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return BaseModel("tiny")


@pytest.fixture
def centre(base: BaseModel) -> nn.Module:
    return base.load()


@pytest.fixture(scope="module")
def engine(base: BaseModel) -> Iterator[HFEngine]:
    made = HFEngine("bfloat16", "cpu")
    made.start(base.folder, 8)
    yield made
    made.close()


def places(module: nn.Module) -> set[str]:
    return {tensor.device.type for tensor in module.state_dict().values()}


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
def test_tensors_pass_through_the_device_and_the_centre_stays(
    noise: Noise, centre: nn.Module, engine: HFEngine
) -> None:
    rollouts = Rollouts(engine, Sampling(max_tokens=6))
    rollouts.shards = Shards(device=META)
    for stream in (
        rollouts.unperturbed(centre),
        rollouts.perturbed(centre, MEMBERS[0], noise, 0.1),
    ):
        named = dict(stream)
        assert set(named) == set(dict(centre.named_parameters()))
        assert {(each.device, each.dtype) for each in named.values()} == {(META, torch.bfloat16)}
    assert places(centre) == {"cpu"}


def test_the_base_passes_through_the_device_as_well(base: BaseModel, centre: nn.Module) -> None:
    taken: dict[str, torch.device] = {}

    class Engine(HFEngine):
        dtype = torch.bfloat16

        def load_weights(self, named_tensors: Any) -> None:
            taken.update((name, tensor.device) for name, tensor in named_tensors)

    rollouts = Rollouts(Engine("bfloat16", "cpu"))
    rollouts.shards = Shards(device=META)
    rollouts.hold_base(base, centre)
    assert set(taken.values()) == {META}


def test_adapters_and_gradients_are_made_on_the_device(centre: nn.Module) -> None:
    noise = LowRankNoise(vectors="frozen")
    [first, *_] = adapters(centre, MEMBERS, noise, 0.1, META)
    assert {tensor.device for _, *pair in first for tensor in pair} == {META}
    for name, parameter in centre.named_parameters():
        made = gradient(name, parameter, MEMBERS, WEIGHTS, GaussianNoise(compile=False), META)
        assert (made.device, made.shape, made.dtype) == (META, parameter.shape, torch.float32)


def test_what_is_measured_through_the_device_has_the_same_bits(base: BaseModel, centre: nn.Module) -> None:
    # The pieces of an accelerator are larger: with its name they are, wherever they are computed.
    with torch.no_grad():
        for parameter in centre.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    named = dict(centre.named_parameters())
    assert checksum(named.items(), Shards(device=CPU)) == checksum(named.items())
    assert drift(base.weights, centre, Shards(device=CPU)) == drift(base.weights, centre) > 0
    check_centre(named.items(), 0, 0.1, Shards(device=CPU))
    first = next(iter(named.values()))
    assert distance_squared(first, torch.zeros_like(first), META).device == META


def test_the_module_moves_and_a_centre_on_the_host_does_not(base: BaseModel) -> None:
    model = module()
    model.centre = base.load()
    names = list(model.state_dict())
    model.centre_place.device = META
    model.to(META)
    assert model.device == META, "what Lightning takes for the device of the run"
    assert model.drift.device == META
    assert places(model.centre) == {"cpu"}
    assert list(model.state_dict()) == names, "checkpoints keep their order"
    model.centre_place.device = None
    model.to(META)
    assert places(model.centre) == {"meta"}


class Host(CentrePlace):
    """Says that the centre is in host memory, where the host is the device."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.device = CPU


MOMENTUM = {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9)}


def fitted(
    folder: Path, on_host: bool, steps: int, ckpt_path: Path | None = None, strategy: str = "population"
) -> EvolutionStrategies:
    model = module(**MOMENTUM)
    if on_host:
        model.centre_place = Host()
    keeps = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    options = {"enable_checkpointing": True, "strategy": strategy}
    data = TaskDataModule(Letters(), grading=Grading(workers=0))
    trainer(folder, steps, [keeps], **options).fit(model, data, ckpt_path=ckpt_path)
    return model


def test_a_run_with_its_centre_on_the_host_is_the_same_run_also_when_it_is_resumed(tmp_path: Path) -> None:
    # Every line of that way runs, and no bit may change.
    near = fitted(tmp_path / "near", False, 3)
    far = fitted(tmp_path / "far", True, 2)
    assert far.rollouts.shards.device == CPU
    strategy = "auto"  # one of Lightning's own, which moves the optimizer's state in a way of its own
    far = fitted(tmp_path / "far", True, 3, tmp_path / "far" / "step=2.ckpt", strategy)
    centres = [[entry.checksum for entry in model.history.entries] for model in (near, far)]
    assert centres[0] == centres[1]
    assert len(centres[0]) == 3
    assert json.loads(far.history.lines[0])["device"] == "cpu, the centre on the cpu"
    assert json.loads(near.history.lines[0])["device"] == "cpu"
    far.restore(1)
    assert far.checksum() == centres[0][0]


# The decision -----------------------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A device of 80 GB that computes nothing."""
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda *_: (int(79e9), int(80e9)))
    return torch.device("cuda")


def case_on(gpu: torch.device, base: BaseModel, engine: Any, **options: Any) -> Case:
    rollouts = Rollouts(engine, Sampling(max_tokens=6))
    rollouts.reserve(base, [Prompt("a", "first")])
    values = {"noise": NOISES[0], "state": 4.0, "prompts": 10, "members": 3, "device": gpu} | options
    return case_of(rollouts, base, **values)


def test_a_run_asks_for_what_its_device_has_to_hold(gpu: torch.device, base: BaseModel) -> None:
    case = case_on(gpu, base, HFEngine("bfloat16", "cpu", batch_size=7))
    d = sum(parameter.numel() for parameter in base.blueprint.parameters())
    assert (case.size.parameters, case.size.weight_bytes, case.device.memory) == (d, 2, 80e9)
    assert (case.engine.at_once, case.sequences, case.state) == (7, 10, 4.0)
    assert case.longest == case.tokens > 6


class Later(Ranks):
    """The second of two ranks, which says what it is told to."""

    def __init__(self, told: list[bytes]) -> None:
        super().__init__()
        self.rank, self.told = 1, told

    def exchange(self, payload: bytes) -> list[bytes]:
        assert payload == self.told[0]
        return self.told


def test_the_log_says_where_the_centre_is_and_why(
    gpu: torch.device, base: BaseModel, caplog: pytest.LogCaptureFixture
) -> None:
    case = case_on(gpu, base, HFEngine("bfloat16", "cpu"))
    place = CentrePlace("auto")
    with caplog.at_level("INFO"):
        left_free = place.decide(case, gpu, Ranks())
        assert place.device is None
        assert left_free == 4 * case.size.parameters + 8 * case.size.largest
        small = replace(case, device=replace(case.device, memory_gb=4.0003))
        assert place.decide(small, gpu, Ranks()) == 6 * case.size.largest
        assert place.device == gpu
        place.decide(case, gpu, Later([b"device", b"host"]))
        assert place.device == gpu, "one rank's device is too small"
        place.decide(case, gpu, Later([b"device", b"device"]))
        assert place.device is None
    assert [record.message[: record.message.index(":")] for record in caplog.records] == [
        "The centre is on the device",
        "The centre is in host memory",
    ]
    assert "centre, engine and a cache for 8 sequences" in caplog.messages[1]


class Engine(HFEngine):
    """Keeps what it was told to leave free."""

    left_free = 0

    def leave_free(self, size: int) -> None:
        self.left_free = size


@pytest.mark.parametrize(("gigabytes", "on_host"), [(4.0005, True), (80.0, False)])
def test_a_module_decides_before_it_loads_and_tells_its_engine(
    gigabytes: float, on_host: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    size, device = int(gigabytes * 1e9), torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda *_: (size, size))
    monkeypatch.setattr(SingleDeviceStrategy, "root_device", device)
    engine = Engine("float32", "cpu")
    model = module(engine=engine, **MOMENTUM)
    model.trainer = trainer(tmp_path)
    model.trainer.datamodule = TaskDataModule(Letters(), grading=Grading(workers=0))  # type: ignore[attr-defined]
    model.configure_model()  # as WeightAveraging calls it, before setup has reserved anything
    assert places(model.centre) == {"cpu"}, "setup moves it, or locks it"
    assert model.ranks.shards.device == model.rollouts.shards.device == (device if on_host else None)
    parameters = [parameter.numel() for parameter in model.centre.parameters()]
    # Momentum and two tensors beside a centre on the device, else one tensor in two precisions.
    assert engine.left_free == (
        (4 + 4) * max(parameters) if on_host else 4 * sum(parameters) + 8 * max(parameters)
    )


def test_without_an_accelerator_nothing_is_decided(base: BaseModel) -> None:
    case = case_on(CPU, base, HFEngine("bfloat16", "cpu"))
    place = CentrePlace("cpu")
    place.decide(case, CPU, Ranks())
    assert place.device is None


# With a GPU -------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
def test_members_gradients_and_measures_have_the_bits_of_a_centre_on_the_gpu(
    noise: Noise, base: BaseModel, engine: HFEngine
) -> None:
    gpu, host = torch.device("cuda"), base.load()
    near, large = copy.deepcopy(host).to(gpu), torch.ones(2**22)
    lock = PageLock([large])
    assert large.is_pinned()
    assert torch.equal(large.to(gpu, non_blocking=True).cpu(), large)
    streams = []
    for centre, device in ((host, gpu), (near, None)):
        rollouts = Rollouts(engine, Sampling(max_tokens=6))
        rollouts.shards = Shards(device=device)
        streams.append(dict(rollouts.perturbed(centre, MEMBERS[1], noise, 0.1)))
    assert all(torch.equal(streams[0][name], streams[1][name]) for name in streams[1])
    named = dict(near.named_parameters())
    for name, parameter in host.named_parameters():
        made = gradient(name, parameter, MEMBERS, WEIGHTS, noise, gpu)
        assert torch.equal(made, gradient(name, named[name], MEMBERS, WEIGHTS, noise))
    optimizer = torch.optim.SGD(host.parameters(), lr=0.1, momentum=0.9)
    apply_update(
        optimizer, host.named_parameters(), MEMBERS, WEIGHTS, noise, base.weights, shards=Shards(device=gpu)
    )
    assert checksum(host.named_parameters(), Shards(device=gpu)) == checksum(host.named_parameters())
    assert places(host) == {"cpu"}
    lock.release()
