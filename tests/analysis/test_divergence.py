"""Estimators of the divergence, against sums over all outcomes, closed forms, and repeated experiments."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import entropy
from torch import Tensor

from es_lightning.analysis.divergence import (
    k3,
    log_ratios,
    per_completion,
    token_weighted,
    whole_vocabulary,
)

LOGITS = arrays(np.float64, 5, elements=st.floats(-8, 8))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum())


def in_prompts(values: np.ndarray, tokens: int = 20) -> list[Tensor]:
    return list(torch.from_numpy(values).split(tokens))


@given(LOGITS, LOGITS)
def test_both_terms_have_the_divergence_as_their_exact_mean(p: np.ndarray, q: np.ndarray) -> None:
    log_p, log_q = log_softmax(p), log_softmax(q)
    exact = float(np.exp(log_p) @ (log_p - log_q))
    [plain] = log_ratios([torch.from_numpy(log_p)], [torch.from_numpy(log_q)])
    [never_negative] = k3([plain])
    for terms in (plain, never_negative):
        assert float(np.exp(log_p) @ terms.numpy()) == pytest.approx(exact, rel=1e-9, abs=1e-12)


@given(arrays(np.float64, 7, elements=st.floats(-30, 30)))
def test_k3_is_never_negative_and_zero_for_equal_probabilities_alone(ratios: np.ndarray) -> None:
    [terms] = k3([torch.from_numpy(ratios)])
    assert bool((terms >= 0).all())
    r = np.exp(-ratios)
    assert terms.numpy() == pytest.approx(r - np.log(r) - 1, rel=1e-6, abs=1e-12)
    assert bool((terms[torch.from_numpy(np.abs(ratios) > 1e-6)] > 0).all())


def test_samples_of_a_categorical_give_its_divergence_within_the_standard_error() -> None:
    rng = np.random.default_rng(0)
    p, q = np.array([0.5, 0.3, 0.15, 0.05]), np.array([0.3, 0.3, 0.2, 0.2])
    drawn = rng.choice(4, size=100_000, p=p)
    ratios = log_ratios(in_prompts(np.log(p)[drawn]), in_prompts(np.log(q)[drawn]))
    exact = float((p * np.log(p / q)).sum())
    for terms in (ratios, k3(ratios)):
        found = token_weighted(terms)
        assert found.error is not None
        assert 0 < found.error < 0.01 * exact + 0.002
        assert abs(found.value - exact) < 4 * found.error
    reverse = float((q * np.log(q / p)).sum())
    assert abs(token_weighted(ratios).value - reverse) > 0.01


def test_samples_of_a_gaussian_give_the_closed_form() -> None:
    x = np.random.default_rng(1).normal(size=100_000)
    mean, scale = 0.2, 1.05
    log_p, log_q = -0.5 * x**2, -0.5 * ((x - mean) / scale) ** 2 - np.log(scale)
    ratios = log_ratios(in_prompts(log_p), in_prompts(log_q))
    exact = np.log(scale) + (1 + mean**2) / (2 * scale**2) - 0.5  # KL(N(0, 1) || N(mean, scale^2))
    plain, never_negative = token_weighted(ratios), token_weighted(k3(ratios))
    assert plain.error is not None
    assert never_negative.error is not None
    assert abs(plain.value - exact) < 4 * plain.error
    assert abs(never_negative.value - exact) < 4 * never_negative.error
    assert never_negative.error < plain.error


def test_tokens_count_alike_or_completions_do() -> None:
    terms = [torch.tensor([1.0]), torch.zeros(3), torch.zeros(0)]
    assert token_weighted(terms).value == 0.25
    # Residuals s_i - R n_i are 0.75, -0.75 and 0, over four tokens.
    assert token_weighted(terms).error == pytest.approx(np.sqrt(3 / 2 * 2 * 0.75**2) / 4)
    assert per_completion(terms).value == pytest.approx(1 / 3)
    assert per_completion(terms).error == pytest.approx(np.std([1, 0, 0], ddof=1) / np.sqrt(3))


def test_completions_of_random_length_have_their_divergence_where_the_mean_of_means_has_none() -> None:
    """The base model ends with probability 0.1 at each token, the tuned one with 0.25."""
    base, tuned, m = 0.1, 0.25, 40_000
    go_on, end = np.log((1 - base) / (1 - tuned)), np.log(base / tuned)
    per_token = (1 - base) * go_on + base * end
    sizes = np.random.default_rng(4).geometric(base, size=m)
    terms = [torch.tensor([go_on] * (n - 1) + [end], dtype=torch.float64) for n in sizes]
    tokens, completions = token_weighted(terms), per_completion(terms)
    assert tokens.error is not None
    assert completions.error is not None
    assert abs(tokens.value - per_token) < 4 * tokens.error
    assert abs(completions.value - per_token / base) < 4 * completions.error  # Wald: 1 / base tokens
    careless = np.mean([float(each.mean()) for each in terms])
    assert (per_token, careless) == pytest.approx((0.072, -0.099), abs=0.005), "no divergence at all"


def test_whole_vocabularies_have_the_exact_divergence() -> None:
    p, q = torch.from_numpy(np.random.default_rng(5).normal(size=(2, 6, 50)) * 3).log_softmax(-1)
    expected = [entropy(np.exp(row), np.exp(other)) for row, other in zip(p.numpy(), q.numpy(), strict=True)]
    assert whole_vocabulary(p, q).numpy() == pytest.approx(expected, rel=1e-9)
    assert whole_vocabulary(p, p).tolist() == [0.0] * 6
    impossible = torch.tensor([[0.5, 0.5, 0.0]]).log(), torch.tensor([[0.25, 0.5, 0.25]]).log()
    assert whole_vocabulary(*impossible).tolist() == pytest.approx([0.5 * np.log(2)])


def test_the_standard_error_is_the_spread_of_repeated_experiments_with_dependent_tokens() -> None:
    rng = np.random.default_rng(2)
    values, errors, careless = [], [], []
    for _ in range(1500):
        sizes = rng.integers(5, 40, size=30)
        terms = [torch.from_numpy(rng.normal(0.3 + 0.2 * rng.normal(), 0.3, size)) for size in sizes]
        found = token_weighted(terms)
        values.append(found.value)
        errors.append(found.error)
        careless.append(float(torch.cat(terms).std()) / np.sqrt(sizes.sum()))
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.1)
    assert np.mean(careless) < 0.6 * np.std(values)


def test_one_prompt_has_no_standard_error() -> None:
    assert token_weighted([torch.tensor([1.0, 2.0])]).error is None
    assert per_completion([torch.tensor([1.0, 2.0])]).error is None


def test_nothing_has_no_divergence() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        token_weighted([torch.zeros(0)])
    with pytest.raises(ValueError, match="no completions"):
        per_completion([])
    with pytest.raises(ValueError, match="no tokens"):
        token_weighted([])
