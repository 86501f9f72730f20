"""The law of the random walk, and z-scores along a direction, against updates simulated with numpy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from es_lightning.algorithm.noise import (
    CorrelatedNoise,
    FilteredNoise,
    GaussianNoise,
    LowRankNoise,
    Noise,
    RademacherNoise,
)
from es_lightning.algorithm.regularisers import AnchoredDecay, SparseUpdate
from es_lightning.analysis.geometry import change, total
from es_lightning.analysis.random_walk import compared, independent, random_walk
from es_lightning.journal.entry import Entry
from es_lightning.journal.hyper import describe_optimizer
from es_lightning.journal.parts import describe_regulariser
from es_lightning.records import Member


def entry(generation: int, weights: Any, lr: float, antithetic: bool = False, **hyper: Any) -> Entry:
    count = len(weights)
    members = tuple(
        Member(n, 1000 * generation + (n // 2 if antithetic else n), 1 - 2 * (antithetic and n % 2))
        for n in range(count)
    )
    return Entry(
        generation=generation,
        members=members,
        weights=torch.as_tensor(weights, dtype=torch.float64),
        sigma=0.1,
        hyper={"lr": lr, **hyper},
        reward={},
        scores={},
        tokens=0,
        seconds={},
        skipped=False,
        drift=0.0,
        checksum="",
    )


def header(**settings: Any) -> dict[str, Any]:
    return {"optimizer": describe_optimizer(torch.optim.SGD([torch.zeros(1)], **{"lr": 0.1, **settings}))}


def z_scores(rng: Any, size: int) -> Any:
    rewards = rng.standard_normal(size)
    return (rewards - rewards.mean()) / rewards.std()


def step(rng: Any, one: Entry, entries: int) -> Any:
    """alpha / N sum w sign eps with noise drawn by numpy, once per seed."""
    noise = {member.seed: rng.standard_normal(entries) for member in one.members}
    pairs = zip(one.members, one.weights.tolist(), strict=True)
    return one.hyper["lr"] / len(one.members) * sum(w * m.sign * noise[m.seed] for m, w in pairs)


def test_z_scores_give_alpha_times_the_root_of_t_d_over_n() -> None:
    rng = np.random.default_rng(0)
    walk = random_walk(header(), [entry(t, z_scores(rng, 30), 5e-4) for t in range(500)])
    assert walk is not None
    assert walk.norm(1_540_000_000) == pytest.approx(5e-4 * math.sqrt(500 * 1.54e9 / 30), rel=1e-12)
    assert walk.norm(1_540_000_000) == pytest.approx(80.2, abs=0.2)  # arXiv 2601.20861's setting
    assert walk.reach == pytest.approx(5e-4 * 500, rel=1e-12)


def test_skipped_generations_and_other_learning_rates_and_populations_add_up() -> None:
    rng = np.random.default_rng(0)
    parts = [(8, 0.1), (20, 0.02), (6, 0.3)]
    updates = [entry(t, z_scores(rng, size), lr) for t, (size, lr) in enumerate(parts)]
    walk = random_walk(header(), [*updates, entry(3, np.zeros(8), 0.1)])
    assert walk is not None
    assert walk.variance == pytest.approx(sum(lr**2 / size for size, lr in parts), rel=1e-12)


@given(seed=st.integers(0, 10**6), antithetic=st.booleans(), opposed=st.floats(-1, 1))
def test_simulated_updates_have_the_norm_of_the_law(seed: int, antithetic: bool, opposed: float) -> None:
    """Also where the two halves of a pair earn alike (1), unlike (0) or the opposite (-1), and unscaled."""
    rng, d = np.random.default_rng(seed), 20_000
    half = rng.standard_normal(4)
    weights = np.stack([half, opposed * half + 0.1 * rng.standard_normal(4)], axis=1).ravel()
    updates = [entry(t, weights * (t + 1), 0.1, antithetic) for t in range(3)]
    delta = sum(step(rng, each, d) for each in updates)
    walk = random_walk(header(), updates)
    assert walk is not None
    # ||delta||^2 / (variance d) is chi^2_d / d: standard deviation 0.01, and half of that for its root
    assert np.linalg.norm(delta) / walk.norm(d) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(
    ("described", "hyper"),
    [
        (header(momentum=0.9), {}),
        (header(weight_decay=0.1), {}),
        (header(), {"momentum": 0.5}),
        ({"optimizer": describe_optimizer(torch.optim.Adam([torch.zeros(1)]))}, {}),
        ({"optimizer": {**header()["optimizer"], "groups": 2}}, {}),
        ({**header(), "regularisers": [describe_regulariser(SparseUpdate(keep=0.1))]}, {}),
        ({**header(), "regularisers": [describe_regulariser(AnchoredDecay(l2=1.0))]}, {}),
    ],
)
def test_other_optimizers_and_regularised_updates_have_no_law(
    described: dict[str, Any], hyper: dict[str, Any]
) -> None:
    assert random_walk(described, [entry(0, [1.0, -1.0], 0.1, **hyper)]) is None


def compared_along(delta: Any, direction: Any, updates: list[Entry]) -> dict[str, float]:
    whole = change(
        torch.from_numpy(delta).float(),
        torch.zeros(len(delta)),
        (),
        target=torch.from_numpy(3.0 * direction).float(),
    )
    return compared(whole, whole, random_walk(header(), updates), noise_is_independent=True)


def test_along_any_direction_a_random_walk_has_a_z_score_of_one_standard_deviation() -> None:
    rng, d = np.random.default_rng(0), 500
    updates = [entry(t, z_scores(rng, 6), 0.1 * (t + 1)) for t in range(4)]
    direction = np.ones(d)
    found = []
    for _ in range(400):
        delta = sum(step(rng, each, d) for each in updates)
        found.append(compared_along(delta, direction, updates)["geometry/projection_z"])
    assert np.std(found) == pytest.approx(1.0, abs=5 / math.sqrt(2 * 400))
    assert np.mean(found) == pytest.approx(0.0, abs=5 / math.sqrt(400))


def test_a_reward_along_the_direction_reaches_the_ceiling() -> None:
    rng, d, size, lr, generations = np.random.default_rng(0), 50, 40, 0.1, 30
    direction = np.zeros(d)
    direction[7] = 1.0
    delta, updates = np.zeros(d), []
    for t in range(generations):
        noise = rng.standard_normal((size, d))
        rewards = noise @ direction
        updates.append(entry(t, (rewards - rewards.mean()) / rewards.std(), lr))
        delta += lr / size * updates[-1].weights.numpy() @ noise
    found = compared_along(delta, direction, updates)
    assert found["geometry/projection_z_ceiling"] == pytest.approx(math.sqrt(generations * size), rel=1e-9)
    assert found["geometry/projection_z"] == pytest.approx(math.sqrt(generations * size), rel=0.05)
    assert found["geometry/projection"] == pytest.approx(delta @ direction, rel=1e-5)
    assert found["geometry/projection_cosine"] == pytest.approx(delta[7] / np.linalg.norm(delta), rel=1e-5)


def test_shared_noise_and_other_optimizers_leave_out_what_they_cannot_have() -> None:
    whole = change(torch.ones(3), torch.zeros(3), (), target=torch.ones(3))
    walk = random_walk(header(), [entry(0, [1.0, -1.0], 0.1)])
    plain = {"geometry/projection", "geometry/projection_cosine"}
    assert set(compared(whole, whole, walk, noise_is_independent=False)) == plain | {"geometry/norm_ratio"}
    assert set(compared(whole, whole, None, noise_is_independent=True)) == plain
    nowhere = random_walk(header(), [])
    assert set(compared(whole, whole, nowhere, noise_is_independent=True)) == plain


@pytest.mark.parametrize(
    ("noise", "expected"),
    [
        (GaussianNoise(), True),
        (RademacherNoise(), True),
        (FilteredNoise(GaussianNoise(), exclude=["norm"]), True),
        (CorrelatedNoise(), False),
        (FilteredNoise(CorrelatedNoise(), exclude=["norm"]), False),
        (LowRankNoise(), False),
        (None, False),
    ],
)
def test_noise_is_independent_unless_shapes_share_it_or_rank_ties_it(
    noise: Noise | None, expected: bool
) -> None:
    assert independent(noise) == expected


def test_frozen_entries_have_no_part_in_the_law() -> None:
    """Three quarters of the entries are frozen, and the target differs in them as well."""
    rng, d = np.random.default_rng(1), 20_000
    updates = [entry(t, z_scores(rng, 6), 0.1) for t in range(4)]
    delta = torch.from_numpy(sum(step(rng, each, d) for each in updates)).float()
    tuned = change(delta, torch.zeros(d), (), target=torch.ones(d))
    frozen = change(torch.zeros(3 * d), torch.zeros(3 * d), (), target=torch.ones(3 * d))
    walk = random_walk(header(), updates)
    assert walk is not None
    found = compared(total([tuned, frozen]), tuned, walk, noise_is_independent=True)
    assert found["geometry/norm_ratio"] == pytest.approx(1.0, abs=0.02)
    along = float(delta.double().sum())
    assert found["geometry/projection_z"] == pytest.approx(along / math.sqrt(d * walk.variance), rel=1e-6)
    assert found["geometry/projection"] == pytest.approx(along / math.sqrt(4 * d), rel=1e-6)
    nowhere = compared(total([tuned, frozen]), frozen, walk, noise_is_independent=True)
    assert nowhere["geometry/norm_ratio"] == 0.0
