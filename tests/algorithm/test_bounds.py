"""What no run goes on with: sigma, settings of optimizers, rewards, weights and centres out of bounds."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from es_lightning.algorithm.bounds import check_centre, check_optimizer, check_rewards, checked_sigma
from es_lightning.algorithm.shaping import weigh, z_score
from es_lightning.errors import DivergenceError, RewardError, UsageError

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("sigma", [0.0, -1.0, NAN, -INF, INF, 1e30, 1e308, 1001.0])
def test_a_sigma_that_cannot_be_meant_is_refused(sigma: float) -> None:
    with pytest.raises(UsageError, match=r"sigma is .*: give a noise scale|sigma is .* weights are"):
        checked_sigma(sigma)


@pytest.mark.parametrize("sigma", [1e-30, 0.001, 10.0, 1000.0])
def test_a_sigma_that_gives_garbage_is_allowed(sigma: float) -> None:
    assert checked_sigma(sigma) == sigma


@pytest.mark.parametrize(
    ("kind", "settings", "name"),
    [
        (torch.optim.SGD, {"lr": NAN}, "lr"),
        (torch.optim.SGD, {"lr": INF}, "lr"),
        (torch.optim.SGD, {"lr": torch.tensor(NAN)}, "lr"),
        (torch.optim.SGD, {"lr": 0.1, "momentum": NAN}, "momentum"),
        (torch.optim.SGD, {"lr": 0.1, "weight_decay": INF}, "weight_decay"),
        (torch.optim.Adam, {"lr": 0.1, "eps": INF}, "eps"),
    ],
)
def test_settings_of_optimizers_are_finite(kind: Any, settings: dict[str, Any], name: str) -> None:
    optimizer = kind([nn.Parameter(torch.zeros(2))], **settings)
    with pytest.raises(UsageError, match=rf"the optimizer's {name} is (nan|inf): .*init_args\.{name}"):
        check_optimizer(optimizer)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_ordinary_optimizers_pass(kind: Any) -> None:
    check_optimizer(kind([nn.Parameter(torch.zeros(2))], lr=0.0))


@pytest.mark.parametrize("reward", [1e308, -1e308, INF, NAN, 1e31])
def test_rewards_that_overflow_in_statistics_are_refused(reward: float) -> None:
    rewards = torch.tensor([[0.0, 1.0], [reward, 2.0]], dtype=torch.float64)
    with pytest.raises(RewardError, match="a reward of the population has the size"):
        weigh(rewards, z_score)


def test_the_largest_rewards_have_finite_weights() -> None:
    rewards = torch.tensor([[1e30], [-1e30], [0.0]], dtype=torch.float64)
    check_rewards(rewards)
    weights, skipped = weigh(rewards, z_score)
    assert not skipped
    assert weights.isfinite().all()


def nothing(rewards: Tensor) -> Any:
    return None


def too_few(rewards: Tensor) -> Tensor:
    return rewards.mean(dim=1)[1:]


def with_nan(rewards: Tensor) -> Tensor:
    return rewards.mean(dim=1) * torch.tensor([1.0, NAN])


@pytest.mark.parametrize(
    ("shaping", "words"),
    [
        (nothing, "nothing returned None: return a tensor of 2 weights"),
        (too_few, r"too_few returned the shape \[1\]"),
        (with_nan, "with_nan returned nan for member 1"),
    ],
)
def test_a_shaping_function_gives_one_finite_weight_per_member(shaping: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        weigh(torch.tensor([[0.0], [1.0]], dtype=torch.float64), shaping)


@pytest.mark.parametrize("weight", [NAN, INF, -INF, 1e37, -2e6])
def test_a_ruined_centre_is_named_with_its_learning_rate(weight: float) -> None:
    good, bad = nn.Parameter(torch.ones(3)), nn.Parameter(torch.tensor([0.0, weight, 1.0]))
    check_centre([("good", good)], 3, 0.1)
    with pytest.raises(
        DivergenceError, match=r"generation 3 has ruined .*: bad has a weight.*\(1e\+38 now\)"
    ):
        check_centre([("good", good), ("bad", bad)], 3, 1e38)
