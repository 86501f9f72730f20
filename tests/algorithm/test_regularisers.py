"""Parts of an update against formulas in float64, torch.topk, and the same bits however they are summed."""

import math
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD

from es_lightning.algorithm.noise import FilteredNoise, GaussianNoise, Noise
from es_lightning.algorithm.population import Population
from es_lightning.algorithm.regularisers import (
    AnchoredDecay,
    ClipNorm,
    Regulariser,
    RoundedCentre,
    SparseUpdate,
)
from es_lightning.algorithm.tensors import checksum
from es_lightning.algorithm.update import apply_update, gradient
from es_lightning.errors import UsageError
from es_lightning.records import Member

LR = 0.1
BIN = 1 + 1 / 2048  # the largest ratio of two sizes in one bin


class Stored:
    """Weights by name."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def read(self, name: str) -> Tensor:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors


class Net(nn.Module):
    """Tensors of different sizes, of which the estimates have different scales only if their noise has."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(90, 40)
        self.first = nn.Linear(40, 40)
        self.norm = nn.LayerNorm(40)
        self.scalar = nn.Parameter(torch.tensor(1.5))


class Louder(GaussianNoise):
    """Noise that is larger in some tensors, so that one threshold for all keeps other shares of each."""

    version = "louder-test"

    def accumulate_(self, seed: int, name: str, total: Tensor, weight: float) -> None:
        super().accumulate_(seed, name, total, weight * (3.0 if "first" in name else 1.0))


MEMBERS = Population(6, 1).members(0)
WEIGHTS = torch.tensor([1.3, -0.2, 0.4, -1.7, 0.9, -0.7], dtype=torch.float64)
NOISE: Noise = Louder(compile=False)


def estimates(net: Net, noise: Noise = NOISE) -> dict[str, Tensor]:
    """The estimates before any part changes them, float32."""
    named = net.named_parameters()
    return {name: gradient(name, tensor.detach(), MEMBERS, WEIGHTS, noise) for name, tensor in named}


def updated(
    parts: Sequence[Regulariser],
    lr: float = LR,
    base: Stored | None = None,
    noise: Noise = NOISE,
    members: Sequence[Member] = MEMBERS,
) -> dict[str, Tensor]:
    """The centre after one step, from the same first one."""
    net = Net()
    named = net.named_parameters()
    apply_update(SGD(net.parameters(), lr=lr), named, members, WEIGHTS, noise, base, parts)
    return {name: tensor.detach() for name, tensor in net.named_parameters()}


def step_from(changed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What one step of SGD makes of these estimates."""
    return {name: p.detach() - LR * changed[name] for name, p in Net().named_parameters()}


def assert_close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], atol: float = 1e-7) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.double(), expected[name].double(), rtol=2**-22, atol=atol)


def norm(tensors: Mapping[str, Tensor]) -> float:
    return math.sqrt(math.fsum(float(each.double().square().sum()) for each in tensors.values()))


# Towards the base model


@pytest.fixture
def base() -> Stored:
    """A base model that is some way off the centre, with tensors in half precision as files have them."""
    generator = torch.Generator().manual_seed(5)
    tensors = dict(Net().named_parameters())
    moved = {n: p.detach() + 0.2 * torch.randn(p.shape, generator=generator) for n, p in tensors.items()}
    return Stored({name: tensor.bfloat16() for name, tensor in moved.items()})


@pytest.mark.parametrize(("l1", "l2"), [(0.0, 2.0), (0.5, 0.0), (0.5, 2.0), (100.0, 0.0)])
def test_decay_is_the_papers_formula(base: Stored, l1: float, l2: float) -> None:
    """delta <- (1 - lr l2) delta, then sign(delta) max(|delta| - lr l1, 0), after the optimizer's step."""
    expected = {}
    for name, theta in updated([]).items():
        origin = base.read(name).double()
        delta = (theta.double() - origin) * (1 - LR * l2)
        expected[name] = origin + delta.sign() * (delta.abs() - LR * l1).clamp(min=0)
    assert_close(updated([AnchoredDecay(l1, l2)], base=base), expected, atol=3e-7)


def test_a_strong_l1_leads_back_to_the_base_model_exactly(base: Stored) -> None:
    found = updated([AnchoredDecay(l1=1e4)], base=base)
    assert all(torch.equal(tensor, base.read(name).float()) for name, tensor in found.items())


def test_decay_alone_shrinks_towards_the_base_and_not_towards_0(base: Stored) -> None:
    part, theta = AnchoredDecay(l2=1.0), torch.tensor([3.0, -1.0, 2.0])
    for _ in range(400):
        part.settle("a", theta, torch.tensor([2.0, 5.0, 2.0]), LR)
    torch.testing.assert_close(theta, torch.tensor([2.0, 5.0, 2.0]))


@pytest.mark.parametrize(
    ("l2", "lr", "words"),
    [
        (10.0, 0.1, "AnchoredDecay.l2 is 10 at a learning rate of 0.1"),
        (4.0, 1.0, "keep their product below 1, at best near 0.005 (l2: 0.005)."),
    ],
)
def test_a_decay_that_would_undo_all_is_refused(base: Stored, l2: float, lr: float, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        updated([AnchoredDecay(l2=l2)], lr, base)
    assert words in str(caught.value)
    AnchoredDecay(l2=l2).check_lr(0.99 / l2)
    AnchoredDecay(l1=l2).check_lr(lr)


def test_a_base_that_lacks_a_tensor_is_refused_unless_it_is_frozen(base: Stored) -> None:
    part = AnchoredDecay(l2=1.0)
    for lacking in (None, Stored({n: t for n, t in base.tensors.items() if n != "first.weight"})):
        with pytest.raises(UsageError, match="AnchoredDecay needs the base model's .*which its files do not"):
            updated([part], base=lacking)
    frozen = FilteredNoise(NOISE, exclude=["first.weight"])
    del base.tensors["first.weight"]
    assert torch.equal(updated([part], base=base, noise=frozen)["first.weight"], Net().first.weight)


# The norm


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.999])
def test_a_long_step_is_clipped_to_the_bound(share: float) -> None:
    whole = estimates(Net())
    bound = share * norm(whole)
    found = updated([ClipNorm(bound)])
    steps = {name: p.detach().double() - found[name].double() for name, p in Net().named_parameters()}
    part = ClipNorm(bound)
    part.look(whole.items())
    changed = {name: part.change(name, tensor.clone()) for name, tensor in whole.items()}
    assert norm(changed) == pytest.approx(bound, rel=1 / 4000)
    assert norm(steps) == pytest.approx(LR * bound, rel=1 / 4000 + 1e-4)
    factor = norm(changed) / norm(whole)
    for name, tensor in whole.items():
        torch.testing.assert_close(changed[name], tensor * factor, rtol=1e-5, atol=0)


@pytest.mark.parametrize("share", [1.001, 1.5, 1e6])
def test_a_short_step_keeps_its_bits(share: float) -> None:
    plain, clipped = updated([]), updated([ClipNorm(share * norm(estimates(Net())))])
    assert all(torch.equal(plain[name], clipped[name]) for name in plain)


@given(
    st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=40),
    st.floats(1e-3, 1e3),
)
def test_any_estimate_is_clipped_to_the_bound(values: list[float], bound: float) -> None:
    estimate = torch.tensor(values)
    part, before = ClipNorm(bound), norm({"a": estimate})
    part.look([("a", estimate)])
    after = norm({"a": part.change("a", estimate.clone())})
    assert after <= bound * (1 + 1 / 4000)
    assert after == pytest.approx(min(before, bound), rel=1 / 4000, abs=1e-37)


def test_a_factor_is_that_of_its_own_generation() -> None:
    part = ClipNorm(1.0)
    part.look([("a", torch.full((4,), 100.0))])
    part.look([("a", torch.full((4,), 0.1))])
    assert part.change("a", torch.full((4,), 0.1)).tolist() == torch.full((4,), 0.1).tolist()


# The largest entries


def check_kept(before: Tensor, after: Tensor, keep: float) -> None:
    """At least the share is kept, exactly the largest, and more only if they are in the threshold's bin."""
    sizes, kept = before.abs().flatten(), after.flatten() != 0
    wanted = math.ceil(keep * len(sizes))
    threshold = float(sizes.topk(wanted).values[-1])  # torch's own
    assert torch.equal(after.flatten()[kept], before.flatten()[kept])
    assert kept[sizes >= threshold].all(), "topk is kept"
    assert not kept[sizes < threshold / BIN].any(), "and nothing that is smaller than its bin"


@pytest.mark.parametrize("keep", [1e-9, 0.01, 0.1, 0.5, 0.999])
def test_a_share_of_every_tensor_is_kept(keep: float) -> None:
    whole, part = estimates(Net()), SparseUpdate(keep)
    for name, estimate in whole.items():
        after = part.change(name, estimate.clone())
        assert after.shape == estimate.shape
        check_kept(estimate, after, keep)
    big = whole["embed.weight"]
    share = float((part.change("a", big.clone()) != 0).double().mean())
    assert keep <= share <= keep + 1 / big.numel() + 0.002
    assert_close(updated([part]), step_from({n: part.change(n, t.clone()) for n, t in whole.items()}))


@pytest.mark.parametrize("keep", [1e-9, 0.01, 0.1, 0.5])
def test_a_share_of_the_model_is_kept(keep: float) -> None:
    whole, part = estimates(Net()), SparseUpdate(keep, "model")
    part.look(whole.items())
    after = {name: part.change(name, tensor.clone()) for name, tensor in whole.items()}
    together = [torch.cat([each[name].flatten() for name in whole]) for each in (whole, after)]
    check_kept(together[0], together[1], keep)
    share = float((together[1] != 0).double().mean())
    assert keep <= share <= keep + 1 / len(together[0]) + 0.002
    assert_close(updated([part]), step_from(after))


def test_the_model_has_one_threshold_and_tensors_have_their_own() -> None:
    def shares(scope: str) -> list[float]:
        found = updated([SparseUpdate(0.1, scope)])  # type: ignore[arg-type]
        start = dict(Net().named_parameters())
        return [float((found[n] != start[n]).double().mean()) for n in ("embed.weight", "first.weight")]

    assert shares("tensor") == pytest.approx([0.1, 0.1], abs=0.01)
    embed, first = shares("model")
    assert embed < 0.03
    assert first > 0.2


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=60), st.floats(0.01, 0.99))
def test_any_estimate_keeps_its_largest_entries(values: list[float], keep: float) -> None:
    """Zeros, ties, numbers too small to be normal and those near the end of float32 included."""
    estimate = torch.tensor(values)
    after = SparseUpdate(keep).change("a", estimate.clone())
    sizes, kept = estimate.abs(), after == estimate
    wanted = math.ceil(keep * len(values))
    assert int(kept.sum()) >= wanted
    dropped = sizes[~kept]
    if len(dropped):
        assert dropped.max() <= sizes.topk(wanted).values[-1]


@pytest.mark.parametrize("scope", ["tensor", "model"])
@pytest.mark.parametrize("estimate", [torch.zeros(5), torch.zeros(0, 3), torch.tensor(2.0)], ids=str)
def test_estimates_without_a_threshold_of_their_own_stay(scope: str, estimate: Tensor) -> None:
    part = SparseUpdate(0.3, scope)  # type: ignore[arg-type]
    part.look([("a", estimate)])
    assert torch.equal(part.change("a", estimate.clone()), estimate)


# Together


def test_the_order_of_a_list_counts() -> None:
    """Clipping what is sparse keeps more of it than making sparse what was clipped as a whole."""
    whole = estimates(Net())
    bound = 0.5 * norm(whole)
    sparse = {name: SparseUpdate(0.1).change(name, tensor.clone()) for name, tensor in whole.items()}
    sparse_first = {name: tensor * min(1.0, bound / norm(sparse)) for name, tensor in sparse.items()}
    clip_first = {name: tensor * (bound / norm(whole)) for name, tensor in sparse.items()}
    assert norm(sparse_first) > 1.2 * norm(clip_first)
    parts = [SparseUpdate(0.1), ClipNorm(bound)]
    # The factor is right to 1 / 4000, and a step is at most 0.5 long per entry.
    assert_close(updated(parts), step_from(sparse_first), atol=2e-4)
    assert_close(updated(parts[::-1]), step_from(clip_first), atol=2e-4)


PARTS: dict[str, Callable[[], list[Regulariser]]] = {
    "clip": lambda: [ClipNorm(3.0)],
    "rounded": lambda: [RoundedCentre()],
    "sparse tensor": lambda: [SparseUpdate(0.1)],
    "sparse model": lambda: [SparseUpdate(0.1, "model")],
    "sparse, clip": lambda: [SparseUpdate(0.1, "model"), ClipNorm(3.0)],
    "clip, sparse, clip": lambda: [ClipNorm(3.0), SparseUpdate(0.3, "model"), ClipNorm(1.0)],
    "all": lambda: [AnchoredDecay(0.1, 1.0), ClipNorm(3.0), SparseUpdate(0.1), ClipNorm(1.0)],
}
EVERY_DAY = ("sparse model", "all")


@pytest.mark.parametrize("name", PARTS)
def test_passes_over_the_noise_are_the_same_as_one_over_stored_estimates(base: Stored, name: str) -> None:
    """Bit for bit: the estimates are made again for every pass, and then changed by the parts before."""
    stored = {key: tensor.clone() for key, tensor in estimates(Net()).items()}
    for part in PARTS[name]():
        part.look([(key, tensor.clone()) for key, tensor in stored.items()])
        stored = {key: part.change(key, tensor) for key, tensor in stored.items()}
    net = Net()
    for key, parameter in net.named_parameters():
        parameter.grad = stored[key]
    SGD(net.parameters(), lr=LR).step()
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            for part in PARTS[name]():
                part.settle(key, parameter, base.read(key).float(), LR)
    found = updated(PARTS[name](), base=base)
    assert all(torch.equal(found[key], parameter) for key, parameter in net.named_parameters())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in EVERY_DAY else pytest.mark.slow) for name in PARTS]
)
def test_bits_do_not_depend_on_threads_and_chunks(
    base: Stored, name: str, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = checksum(updated(PARTS[name](), base=base).items())
    torch.set_num_threads(1)
    monkeypatch.setattr("es_lightning.algorithm.regularisers._CHUNK", 1000)
    assert checksum(updated(PARTS[name](), base=base).items()) == both


@pytest.mark.parametrize(("name", "bits"), [("bfloat16", 8), ("float16", 11)])
def test_a_rounded_centre_loses_steps_below_half_of_its_last_bit(name: str, bits: int) -> None:
    centre = 1.75 * 2.0 ** torch.arange(
        -6, 7
    )  # on the grid; the distance of its neighbours is 2^(1 - bits) / 1.75
    half = 2.0**-bits / 1.75
    for share, stays in ((0.99, True), (-0.99, True), (1.01, False), (-1.01, False)):
        theta = centre * (1 + share * half)
        RoundedCentre(name).settle("a", theta, None, LR)
        assert torch.equal(theta, centre) == stays


def test_a_rounded_centre_is_the_plain_update_rounded() -> None:
    plain, rounded = updated([]), updated([RoundedCentre()])
    for key, parameter in plain.items():
        assert torch.equal(rounded[key], parameter.bfloat16().float())


def test_large_counts_do_not_depend_on_threads(two_threads: None) -> None:
    estimate = torch.randn(3_000_000, generator=torch.Generator().manual_seed(1))
    part = ClipNorm(1.0)

    def clipped() -> Tensor:
        part.look([("a", estimate)])
        return part.change("a", estimate.clone())

    both = clipped()
    torch.set_num_threads(1)
    assert torch.equal(both, clipped())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AnchoredDecay(), "AnchoredDecay has l1 0.0 and l2 0.0: give one of them above 0"),
        (lambda: AnchoredDecay(l1=-1.0, l2=3.0), "AnchoredDecay has l1 -1.0 and l2 3.0"),
        (lambda: AnchoredDecay(l2=math.nan), "l2 nan"),
        (lambda: AnchoredDecay(l1=math.inf), "l1 inf"),
        (lambda: ClipNorm(0.0), "ClipNorm.max_norm is 0.0: give a number above 0."),
        (lambda: ClipNorm(math.inf), "ClipNorm.max_norm is inf: give a number above 0."),
        (lambda: ClipNorm(math.nan), "ClipNorm.max_norm is nan"),
        (lambda: RoundedCentre("float32"), "RoundedCentre.dtype is float32: give bfloat16 or float16."),
        (lambda: SparseUpdate(0.0), "SparseUpdate.keep is 0.0: give a share above 0 and below 1."),
        (lambda: SparseUpdate(1.0), "SparseUpdate.keep is 1.0"),
        (lambda: SparseUpdate(math.nan), "SparseUpdate.keep is nan"),
        (lambda: SparseUpdate(0.1, "layer"), "SparseUpdate.scope is layer: give tensor or model."),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], Regulariser], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
