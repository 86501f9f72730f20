"""The decomposed update against the papers' formula in float64, and against torch.optim on a whole model."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from es_lightning.algorithm.noise import CorrelatedNoise, GaussianNoise, Noise
from es_lightning.algorithm.population import Population
from es_lightning.algorithm.shaping import best_of_n, z_score
from es_lightning.algorithm.update import apply_update, gradient
from es_lightning.records import Member

N, ALPHA = 12, 5e-4


class Net(nn.Module):
    """Tensors of the shapes that a language model has, one of them longer than a superblock of noise."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(300, 32)
        self.first = nn.Linear(32, 32)
        self.second = nn.Linear(32, 32)
        self.norm = nn.LayerNorm(32)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def weights() -> Tensor:
    rewards = torch.randn(N, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return z_score(rewards)


def formula(net: Net, members: tuple[Member, ...], weights: Tensor, noise: Noise) -> dict[str, Tensor]:
    """theta + alpha * (1/N) * sum_n Z_n * sign_n * eps_n in float64 (arXiv 2509.24372, equation 3)."""
    result = {}
    for name, theta in net.named_parameters():
        eps = torch.stack([m.sign * noise.sample(m.seed, name, theta.shape).double() for m in members])
        result[name] = theta.detach().double() + ALPHA / N * torch.einsum("n,n...->...", weights, eps)
    return result


@pytest.mark.parametrize("antithetic", [False, True])
def test_with_lr_sigma_the_best_member_is_the_next_centre(net: Net, antithetic: bool) -> None:
    """theta' = theta + sigma * sign_b * eps_b in float64, up to float32: the bits that the engine had."""
    sigma, noise, members = 2e-3, GaussianNoise(), Population(N, 5, antithetic).members(0)
    rewards = torch.arange(N, dtype=torch.float64).roll(5)[:, None]
    best = members[4]
    before = {name: theta.detach().clone() for name, theta in net.named_parameters()}
    weights = best_of_n(rewards)
    apply_update(SGD(net.parameters(), lr=sigma), net.named_parameters(), members, weights, noise)
    for name, theta in net.named_parameters():
        eps = noise.sample(best.seed, name, theta.shape).double()
        expected = before[name].double() + best.sign * sigma * eps
        torch.testing.assert_close(theta.double(), expected, rtol=1.2e-7, atol=1e-9)
        engine = noise.perturbed(best.seed, name, before[name], best.sign * sigma, torch.float32)
        torch.testing.assert_close(theta.detach(), engine, rtol=2.4e-7, atol=1e-9)


def test_a_centre_that_is_its_own_best_member_keeps_its_bits(net: Net) -> None:
    members = Population(N, 5, keep_centre=True).members(0)
    before = {name: theta.detach().clone() for name, theta in net.named_parameters()}
    weights = best_of_n(torch.tensor([1.0, *[0.5] * (N - 2), 1.0])[:, None])
    apply_update(SGD(net.parameters(), lr=1.0), net.named_parameters(), members, weights, GaussianNoise())
    assert all(torch.equal(theta, before[name]) for name, theta in net.named_parameters())


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize(
    "noise", [GaussianNoise(), CorrelatedNoise()], ids=lambda noise: type(noise).__name__
)
def test_sgd_is_the_papers_update(net: Net, weights: Tensor, noise: Noise, antithetic: bool) -> None:
    members = Population(N, 7, antithetic).members(3)
    expected = formula(net, members, weights, noise)
    apply_update(SGD(net.parameters(), lr=ALPHA), net.named_parameters(), members, weights, noise)
    for name, theta in net.named_parameters():
        # One float32 rounding of theta, at most 2^-24 relative, and a few of the step, which is 1e-4 as long.
        torch.testing.assert_close(theta.detach().double(), expected[name], rtol=2**-23, atol=1e-10)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "momentum": lambda p: SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "decay": lambda p: SGD(p, lr=0.01, weight_decay=0.1),
    "adam": lambda p: Adam(p, lr=0.01),
    "adamw": lambda p: AdamW(p, lr=0.01),
    "rmsprop": lambda p: RMSprop(p, lr=0.01),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_tensor_by_tensor_equals_one_step_over_the_whole_model(
    net: Net, weights: Tensor, make: Callable[..., Optimizer]
) -> None:
    whole = Net()
    whole.load_state_dict(net.state_dict())
    noise, population = GaussianNoise(), Population(N)
    streamed_optimizer, whole_optimizer = make(net.parameters()), make(whole.parameters())
    for generation in range(3):  # optimizers with a state need more than one step to show it
        members = population.members(generation)
        for name, theta in whole.named_parameters():
            theta.grad = gradient(name, theta, members, weights, noise)
        whole_optimizer.step()
        apply_update(streamed_optimizer, net.named_parameters(), members, weights, noise)
    for ours, theirs in zip(net.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_step_and_drift_are_euclidean_norms(net: Net, weights: Tensor) -> None:
    class Base:
        tensors = {name: theta.detach().clone() for name, theta in net.named_parameters()}

        def __contains__(self, name: str) -> bool:
            return name in self.tensors

        def read(self, name: str) -> Tensor:
            return self.tensors[name]

    population, noise, optimizer = Population(N), GaussianNoise(), SGD(net.parameters(), lr=ALPHA)
    for generation in range(2):
        before = nn.utils.parameters_to_vector(net.parameters()).detach().double()
        size = apply_update(
            optimizer,
            net.named_parameters(),
            population.members(generation),
            weights,
            noise,
            Base(),  # type: ignore[arg-type]
        )
        after = nn.utils.parameters_to_vector(net.parameters()).detach().double()
        base = torch.cat([tensor.flatten() for tensor in Base.tensors.values()]).double()
        assert size.update_norm == pytest.approx(float((after - before).norm()), rel=1e-6)
        assert size.drift == pytest.approx(float((after - base).norm()), rel=1e-6)


def test_steps_obey_the_norm_law(net: Net, weights: Tensor) -> None:
    """Every step is alpha * sqrt(d / N) long, signal or none, since the weights have variance 1."""
    members, d = Population(N).members(0), sum(p.numel() for p in net.parameters())
    size = apply_update(
        SGD(net.parameters(), lr=ALPHA), net.named_parameters(), members, weights, GaussianNoise()
    )
    assert size.update_norm == pytest.approx(ALPHA * math.sqrt(d / N), rel=5 / math.sqrt(2 * d))
    assert math.isnan(size.drift)


class Unread:
    """A base model that nobody may read."""

    def __contains__(self, name: str) -> bool:
        return True

    def read(self, name: str) -> Tensor:
        raise AssertionError(f"{name} was read")


def test_a_drift_that_is_not_asked_for_costs_no_reading(net: Net, weights: Tensor) -> None:
    optimizer, members = SGD(net.parameters(), lr=ALPHA), Population(N).members(0)
    inputs = (optimizer, net.named_parameters(), members, weights, GaussianNoise(), Unread())
    size = apply_update(*inputs, measure_drift=False)
    assert math.isnan(size.drift)
    assert size.update_norm > 0


def test_no_gradient_stays_behind(net: Net, weights: Tensor) -> None:
    optimizer = SGD(net.parameters(), lr=ALPHA)
    apply_update(optimizer, net.named_parameters(), Population(N).members(0), weights, GaussianNoise())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_updates_are_not_lost_to_rounding(net: Net, weights: Tensor) -> None:
    """The step arrives in every bin of weight magnitude; with bfloat16 weights it would not."""
    for parameter in net.parameters():
        parameter.data.mul_(0.02)
    members, noise = Population(N).members(0), GaussianNoise()
    expected = formula(net, members, weights, noise)
    before = {name: theta.detach().clone() for name, theta in net.named_parameters()}
    apply_update(SGD(net.parameters(), lr=ALPHA), net.named_parameters(), members, weights, noise)
    old = before["embed.weight"].flatten()
    applied = (net.embed.weight.detach().flatten() - old).double()
    wanted = expected["embed.weight"].flatten() - old.double()
    for low, high in ((0, 0.0078), (0.0078, 0.0156), (0.0156, 0.031), (0.031, 1)):
        rows = (old.abs() >= low) & (old.abs() < high)
        assert rows.sum() > 50
        slope = float(applied[rows].dot(wanted[rows]) / wanted[rows].dot(wanted[rows]))
        assert slope == pytest.approx(1, abs=1e-3)
