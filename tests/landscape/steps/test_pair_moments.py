"""Sums over different prompts against loops, and what they estimate against quadratics of known curvature."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from es_lightning.analysis.sigma_sweep import score
from es_lightning.errors import UsageError
from es_lightning.landscape.steps.pair_moments import moments
from es_lightning.landscape.steps.pair_rewards import PairRewards
from tests.helpers.quadratics import world

SIGMAS = (0.1, 0.2, 0.4)


def random_probe(seed: int, pairs: int = 5, prompts: int = 6) -> PairRewards:
    generator = np.random.default_rng(seed)
    tables = generator.standard_normal((3, 2 * pairs, prompts)) + generator.standard_normal((3, 2 * pairs, 1))
    return PairRewards(SIGMAS, generator.standard_normal(prompts), tables)


def test_the_score_is_that_of_the_sigma_sweep() -> None:
    probe = random_probe(0)
    expected = [float(score(torch.from_numpy(table), 7)) for table in probe.rewards]
    assert moments(probe, 1, 7, resamples=3).score[0] == pytest.approx(expected, rel=1e-12)


def test_the_price_of_noise_is_what_the_nearest_members_earn_less_the_others() -> None:
    probe = random_probe(1)
    change = probe.rewards.mean(axis=(1, 2)) - probe.centre.mean()
    found = moments(probe, 0, 6, resamples=3)
    line = np.polyfit(np.square(SIGMAS[:2]), change[:2], 1)
    assert found.offset[0] == pytest.approx(line[1], rel=1e-9)
    assert found.drop[0] == pytest.approx(line[1] - change, rel=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), luck=st.floats(-5, 5))
def test_a_lucky_centre_changes_nothing_but_the_offset(seed: int, luck: float) -> None:
    probe = random_probe(seed)
    lucky = PairRewards(SIGMAS, probe.centre + luck, probe.rewards)
    plain, other = moments(probe, 1, 6, resamples=5), moments(lucky, 1, 6, resamples=5)
    assert other.offset == pytest.approx(plain.offset - luck, rel=1e-9, abs=1e-9)
    for name in ("drop", "slope", "variance", "bend", "score"):
        assert getattr(other, name) == pytest.approx(getattr(plain, name), rel=1e-7, abs=1e-9), name


def test_slopes_leave_out_products_within_a_prompt_and_a_sigma() -> None:
    probe = random_probe(2)
    different, at = list(permutations(range(6), 2)), 1
    products = [np.mean([probe.odd[j, :, p] @ probe.odd[at, :, q] for p, q in different]) / 5 for j in (0, 2)]
    slopes = np.array(products) / (np.array([SIGMAS[0], SIGMAS[2]]) * SIGMAS[at])
    place = (SIGMAS[1] ** 2 - SIGMAS[0] ** 2) / (SIGMAS[2] ** 2 - SIGMAS[0] ** 2)
    expected = [slopes[0], slopes[0] + place * (slopes[1] - slopes[0]), slopes[1]]
    assert moments(probe, at, 6, resamples=3).slope[0] == pytest.approx(np.maximum(expected, 0), rel=1e-10)


def test_the_cubic_moment_takes_three_different_prompts() -> None:
    from es_lightning.landscape.steps.pair_moments import _cubic

    probe = random_probe(3)
    odd, even = probe.odd[0], probe.even[0]
    even_centred = even - even.mean(axis=0)
    triples = list(permutations(range(6), 3))
    expected = sum(odd[:, p] * odd[:, q] @ even_centred[:, r] for p, q, r in triples) / len(triples) / 4
    found = _cubic(odd, even, np.full((1, 5), 1 / 5), np.full((1, 6), 1 / 6))
    assert found[0] == pytest.approx(expected, rel=1e-10)


def test_members_ruined_at_random_have_no_slope() -> None:
    generator = np.random.default_rng(0)
    right = np.where(generator.random((3, 800, 16)) < 0.5, 0.0, 1.0) * (generator.random((3, 800, 1)) < 0.5)
    found = moments(PairRewards(SIGMAS, np.ones(16), right), 1, 16, resamples=40)
    own = right[1, ::2].mean(axis=1) - right[1, 1::2].mean(axis=1)
    assert found.slope[0, 1] * SIGMAS[1] ** 2 < 0.2 * (own / 2).var()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), shift=st.floats(-5, 5), scale=st.floats(0.1, 10))
def test_moments_scale_with_the_reward(seed: int, shift: float, scale: float) -> None:
    probe = random_probe(seed)
    other = PairRewards(SIGMAS, scale * probe.centre + shift, scale * probe.rewards + shift)
    a, b = moments(probe, 1, 6, resamples=5), moments(other, 1, 6, resamples=5)
    assert b.drop == pytest.approx(scale * a.drop, rel=1e-6, abs=1e-9)
    assert b.slope == pytest.approx(scale**2 * a.slope, rel=1e-6, abs=1e-9)
    assert b.variance == pytest.approx(scale**2 * a.variance, rel=1e-6)
    assert b.bend == pytest.approx(scale * a.bend, rel=1e-5, abs=1e-9)


def test_many_pairs_return_slope_curvature_and_noise() -> None:
    truth = world(0, prompts=16, own=0.2, white=0.2)
    sigma = SIGMAS[1]
    found = moments(truth.probe(SIGMAS, 3000, seed=1), 1, 16, resamples=40)
    assert found.slope[0] == pytest.approx([1.0] * 3, rel=0.08)
    assert 2 * found.drop[0] / np.array(SIGMAS) ** 2 == pytest.approx([truth.trace] * 3, rel=0.05)
    assert found.variance[0] == pytest.approx(truth.variance(sigma), rel=0.06)
    assert found.bend[0] == pytest.approx(truth.bend(sigma), rel=0.2)
    assert found.odd_share[0] == pytest.approx(
        1 - (0.5 * sigma**4 * (truth.curvature**2).sum() + 0.5 * 0.2**2 / 16) / truth.variance(sigma),
        abs=0.03,
    )


def test_bad_input_is_refused_in_one_sentence() -> None:
    probe = random_probe(4)
    with pytest.raises(UsageError, match="same at every sigma"):
        PairRewards(SIGMAS, probe.centre, np.ones_like(probe.rewards))
    with pytest.raises(UsageError, match="3 pairs are too few"):
        PairRewards(SIGMAS, probe.centre, probe.rewards[:, :6])
    with pytest.raises(UsageError, match="2 prompts are too few"):
        PairRewards(SIGMAS, probe.centre[:2], probe.rewards[..., :2])
    with pytest.raises(UsageError, match="numbers above 0"):
        PairRewards((0.0, 0.1, 0.2), probe.centre, probe.rewards)
    with pytest.raises(UsageError, match="ascending"):
        PairRewards((0.2, 0.1, 0.4), probe.centre, probe.rewards)
    with pytest.raises(UsageError, match="not finite"):
        PairRewards(SIGMAS, probe.centre, np.where(probe.rewards > 1, np.nan, probe.rewards))
