"""How many operations noise and a generation take: a bounded number per tensor, each one a launch.

Accelerators are stood in for by the meta device, on which operations are dispatched and nothing is computed.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from es_lightning.algorithm import tensors
from es_lightning.algorithm.noise import (
    GaussianNoise,
    LowRankNoise,
    Noise,
    RademacherNoise,
    low_rank,
    table,
    threefry,
)
from es_lightning.algorithm.noise.threefry import COMPILED_PIECE, EAGER_PIECE, PIECE, Kernel
from es_lightning.algorithm.population import Population
from es_lightning.algorithm.update import apply_update

KINDS: dict[str, Noise] = {
    "gaussian": GaussianNoise(compile=False),
    "rademacher": RademacherNoise(compile=False),
    "low rank": LowRankNoise(1, compile=False),
}
MOST = 420  # operations of one tensor that is made in one piece, run eagerly
MOST_COMPILED = 16  # those around the compiled kernel, most of them views
META = torch.device("meta")


class Counted(TorchDispatchMode):
    """Counts operations."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.operations += 1
        return func(*args, **(kwargs or {}))


def counted(noise: Noise, shape: tuple[int, int], device: torch.device) -> list[int]:
    """Count the operations of a member's tensor, and of its term in the update."""
    found = []
    for act in (
        lambda whole: noise.perturbed(1, "a", whole, 0.1, torch.bfloat16),
        lambda whole: noise.accumulate_(1, "a", whole, 0.1),
    ):
        whole = torch.zeros(shape, device=device)
        act(whole)  # makes the table of that device
        with Counted() as mode:
            act(whole)
        found.append(mode.operations)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_on_accelerators_a_tensor_of_any_size_takes_as_many(kind: str) -> None:
    small = counted(KINDS[kind], (64, 64), META)
    assert max(small) <= MOST
    assert counted(KINDS[kind], (EAGER_PIECE // 4096, 4096), META) == small
    assert max(counted(KINDS[kind], (EAGER_PIECE // 1024, 4096), META)) <= 4 * MOST  # four pieces


def test_on_cpus_pieces_stay_in_cache() -> None:
    cpu, noise = torch.device("cpu"), KINDS["gaussian"]
    one, three = (counted(noise, (rows, 1024), cpu)[1] for rows in (8, 3 * PIECE // 1024))
    assert three > 2 * one


def test_compiled_an_accelerator_takes_a_tensor_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call of a kind compiles, and is cut like eager code: nobody knows yet that it will work."""
    sizes: list[int] = []

    def compiled(
        table: Tensor, words: Tensor, rows: int, centre: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        sizes.append(rows * threefry.SUPERBLOCK)
        return torch.empty((rows, 4, threefry.LANE), dtype=dtype, device="meta")

    monkeypatch.setattr(threefry, "_compiled", lambda: compiled)
    monkeypatch.setattr(torch, "equal", lambda a, b: True)
    noise = GaussianNoise(compile=True)
    whole = torch.zeros((1 << 14, 1 << 14), device=META)
    noise.perturbed(1, "a", whole, 0.1, torch.bfloat16)
    assert max(sizes) == EAGER_PIECE
    sizes.clear()
    with Counted() as mode:
        noise.perturbed(1, "a", whole, 0.1, torch.bfloat16)
    assert sizes == [whole.numel()]
    assert mode.operations <= MOST_COMPILED


def test_a_kernel_that_cannot_be_compiled_keeps_to_small_pieces() -> None:
    kernel = Kernel(compile=False)
    kernel._trusted.add(("cuda", torch.float32, True))
    assert kernel.piece(torch.device("cuda"), torch.float32, False) == EAGER_PIECE
    assert kernel.piece(torch.device("cpu"), torch.float32, False) == PIECE
    assert COMPILED_PIECE % EAGER_PIECE == EAGER_PIECE % PIECE == 0


class Model(nn.Module):
    """Two matrices and a vector."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(rows, 2048), requires_grad=False)
        self.second = nn.Parameter(torch.zeros(rows, 2048), requires_grad=False)
        self.norm = nn.Parameter(torch.ones(2048), requires_grad=False)


class Stored:
    """A base model like the centre."""

    def __init__(self, model: Model) -> None:
        self.tensors = {name: parameter.clone() for name, parameter in model.named_parameters()}

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def read(self, name: str) -> Tensor:
        return self.tensors[name]


MOST_OF_A_GENERATION = 300  # operations per tensor beside the noise: optimizer, checksum, drift
HALVINGS = 4 * 4  # a tensor 16 times as large is halved four times more often, in each of its sums


@pytest.mark.parametrize("kind", ["gaussian", "low rank"])
def test_a_generation_takes_as_many_whatever_the_size_of_its_tensors(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU, with the pieces of an accelerator: streamed members, an update, checksum and drift."""
    for module in (table, low_rank):
        monkeypatch.setattr(module, "eager_piece", lambda device: EAGER_PIECE)
    monkeypatch.setattr(threefry, "eager_piece", lambda device: EAGER_PIECE)
    monkeypatch.setattr(tensors, "_chunks_at_once", lambda device: 256)
    small, large = (_generation(KINDS[kind], rows, members=2) for rows in (128, 16 * 128))
    assert small <= 3 * (2 * 2 * MOST + MOST_OF_A_GENERATION)
    assert large <= small + 3 * HALVINGS


def _generation(noise: Noise, rows: int, members: int) -> int:
    """Count the operations of a generation, without those of generating."""
    centre = Model(rows)
    base, engine = Stored(centre), Stored(centre).tensors
    optimizer = torch.optim.SGD(centre.parameters(), lr=0.1, foreach=False)
    population = Population(members).members(0)
    with Counted() as mode:
        for member in population:
            for name, theta in centre.named_parameters():
                engine[name].copy_(noise.perturbed(member.seed, name, theta, 0.1, torch.float32))
        weights = torch.linspace(-1, 1, members, dtype=torch.float64)
        apply_update(optimizer, centre.named_parameters(), population, weights, noise, base)
        tensors.checksum(centre.named_parameters())
    return mode.operations
