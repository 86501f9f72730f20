"""The numbers of a tuned model beside its base, against SciPy's and those that the callbacks log."""

from dataclasses import replace
from math import isnan, nan
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from es_lightning.analysis.beside_base import CHANGED, Found, Pair, named_metrics, rows, summary
from es_lightning.analysis.forgetting import ALONG_A_RUN, Look
from es_lightning.analysis.geometry import changes, labels, table

NATS = {"kl_base_tuned": 0.5, "kl_base_tuned_se": 0.1, "kl_base_tuned_completion": 2.0}
NATS |= {"kl_base_tuned_completion_se": 0.4, "kl_tuned_base": 0.3, "kl_tuned_base_k3": 0.2}


class Held(dict[str, torch.Tensor]):
    """Weights in memory."""

    def read(self, name: str) -> torch.Tensor:
        return self[name]


def geometry() -> dict[str, Any]:
    base = Held({"h.0.mlp.weight": torch.ones(4), "lm_head.weight": torch.zeros(6)})
    theta = {"h.0.mlp.weight": torch.tensor([1.0, 1.0, 1.0, 4.0]), "lm_head.weight": torch.full((6,), 2.0)}
    return table(changes(theta.items(), base, [1e-6]), labels([1e-6]), 5, steps=False)


def pair(base: list[float], tuned: list[float], right: bool = True) -> Pair:
    marked = [[float(x > 0) for x in each] if right else None for each in (base, tuned)]
    return Pair("test", Look(0, base, marked[0], right), Look(0, tuned, marked[1], right))


def found(**others: Any) -> Found:
    task = pair([0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.5, 0.25])
    return Found(
        **{"geometry": geometry(), "divergences": NATS, "divergence_prompts": 7, "task": task} | others
    )


def numbers(measured: Found, part: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["of"], row["quantity"]): row for row in rows(measured) if row["part"] == part}


values = st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2, max_size=8)


@given(values)
def test_a_difference_is_paired(pairs: list[tuple[float, float]]) -> None:
    base, tuned = [a for a, _ in pairs], [b for _, b in pairs]
    [row] = numbers(found(prior={"x": pair(base, tuned, right=False)}), "prior").values()
    assert row["base"] == pytest.approx(np.mean(base))
    assert row["tuned"] == pytest.approx(np.mean(tuned), abs=1e-9)
    assert row["change"] == pytest.approx(np.mean(tuned) - np.mean(base), abs=1e-9)
    assert row["se"] == pytest.approx(stats.sem(np.subtract(tuned, base)), abs=1e-9)
    assert row["problems"] == len(pairs)


def test_weights_that_changed_are_counted() -> None:
    weights = numbers(found(prior={}), "weights")
    assert weights["all", "norm"]["change"] == pytest.approx((3**2 + 6 * 2**2) ** 0.5)
    assert weights["all", CHANGED]["change"] == pytest.approx(0.7)
    assert weights["all", "sparsity_1e-6"]["change"] == pytest.approx(0.3)
    assert weights["mlp", CHANGED]["change"] == pytest.approx(0.25)
    assert weights["mlp", "norm_relative"]["change"] == pytest.approx(1.5)
    assert isnan(weights["head", "norm_relative"]["change"]), "a base of zeros has no length"


def test_accuracies_of_tasks_that_say_what_is_right_are_averaged() -> None:
    prior = {"a": pair([1.0, 1.0, 0.0], [0.0, 1.0, 0.0]), "b": pair([0.0, 3.0], [2.0, 1.0])}
    told = numbers(found(prior=prior | {"c": pair([0.1, 0.2], [0.1, 0.3], right=False)}), "prior")
    assert ("c", "accuracy") not in told
    mean = told["mean of 2", "accuracy"]
    errors = [stats.sem([-1, 0, 0]), stats.sem([1, 0])]
    assert mean["base"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert mean["change"] == pytest.approx((-1 / 3 + 1 / 2) / 2)
    assert (mean["se"], mean["problems"]) == (pytest.approx(np.hypot(*errors) / 2), 5)
    assert ("mean of 2", "reward") not in told, "unlike units are not averaged"


def test_divergences_have_their_units_and_errors() -> None:
    nats = numbers(found(prior={}), "divergence")
    assert {key: (row["change"], row["problems"]) for key, row in nats.items()} == {
        ("KL(base||tuned)", "nats per token"): (0.5, 7),
        ("KL(base||tuned)", "nats per completion"): (2.0, 7),
        ("KL(tuned||base)", "nats per token"): (0.3, 7),
        ("KL(tuned||base), k3", "nats per token"): (0.2, 7),
    }
    assert [row["se"] for row in nats.values()] == pytest.approx([0.1, 0.4, nan, nan], nan_ok=True)


def test_loggers_get_the_names_of_the_callbacks() -> None:
    named = named_metrics(found(prior={"a": pair([1.0, 0.0], [0.0, 0.0])}), "Sums")
    assert named["kl_base_tuned/Sums_completion_se"] == 0.4
    assert named["kl_tuned_base_k3/Sums"] == 0.2
    assert named["geometry_group/mlp"] == 3
    assert (named["test/reward_base"], named["test/reward"]) == (0.5, 0.6875)
    assert named["test/reward_change_se"] == pytest.approx(stats.sem([1, 0, -0.5, 0.25]))
    assert (named["prior/a"], named["prior/a_change"], named["prior/accuracy_change"]) == (0, -0.5, -0.5)
    assert not any(name.endswith(ALONG_A_RUN) for name in named), "there is no run along which it could fall"


def test_changes_are_told_problem_by_problem_of_accuracy_where_there_is_one() -> None:
    marked = pair([1.0, 0.0, -2.0], [0.0, 5.0, -1.0])
    assert summary(replace(marked, problems=["a", "b", "c"]))["by_problem"] == {"a": -1, "b": 1, "c": 0}
    rewarded = pair([1.0, 0.0], [0.0, 5.0], right=False)
    assert summary(replace(rewarded, problems=["a", "b"]))["by_problem"] == {"a": -1, "b": 5}


def test_one_problem_has_no_error_and_plain_json_says_so() -> None:
    assert summary(pair([1.0], [3.0], right=False)) == {
        "split": "test", "problems": 1, "base": 1.0, "final": 3.0, "change": 2.0, "change_se": None
    }  # fmt: skip
