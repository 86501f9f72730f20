"""What the replays of docs/callbacks.md make of problems that are no independent sample."""

import numpy as np

from benchmarks.early_peak import without_order


def test_both_orders_of_a_sum_are_one_problem() -> None:
    ids = ["sums/3+14", "sums/5+5", "sums/14+3", "sums/14+4"]
    joined = without_order(ids, np.array([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0]]))
    assert joined.tolist() == [[0.5, 0.0, 1.0], [1.0, 1.0, 0.0]]
