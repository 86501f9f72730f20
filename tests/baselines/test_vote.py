"""The arithmetic of votes: examples by hand, and what holds for any of them."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from es_lightning.baselines.vote import agreement, elected, vote_rows
from es_lightning.errors import UsageError

answers = st.lists(st.sampled_from(["4", "5", "6", None]), min_size=1, max_size=9)
tables = st.tuples(st.integers(1, 4), st.integers(2, 6)).flatmap(
    lambda shape: st.lists(
        st.lists(st.sampled_from(["4", "5", None]), min_size=shape[1], max_size=shape[1]),
        min_size=shape[0],
        max_size=shape[0],
    )
)


@pytest.mark.parametrize(
    ("given_answers", "speaker", "share"),
    [
        (["7"], 0, 1.0),
        (["7", "12", None, "12"], 1, 0.5),
        (["7", "12", "12", "7", "5"], 0, 0.4),  # a tie: that of the best voter
        (["5", "12", "7", "7", "12"], 1, 0.4),  # a tie behind it: that whose first voter ranks best
        ([None, "12", "7"], 1, 1 / 3),  # who gives no answer has no vote
        ([None, None], 0, 0.0),
    ],
)
def test_examples_by_hand(given_answers: list[str | None], speaker: int, share: float) -> None:
    assert elected(given_answers) == speaker
    assert agreement(given_answers) == pytest.approx(share)


@given(answers, st.randoms(use_true_random=False))
def test_the_order_of_voters_changes_nothing_but_ties(voters: list[str | None], rng: object) -> None:
    counts = sorted((voters.count(each) for each in {*voters} - {None}), reverse=True)
    assume(counts and (len(counts) == 1 or counts[0] > counts[1]))
    other = list(voters)
    rng.shuffle(other)  # type: ignore[attr-defined]
    assert voters[elected(voters)] == other[elected(other)]
    assert agreement(voters) == agreement(other)


@given(answers)
def test_nobody_has_more_votes_and_nobody_said_it_before(voters: list[str | None]) -> None:
    speaker = elected(voters)
    winner = voters[speaker]
    if winner is None:
        assert set(voters) == {None}
    assert winner is None or max(voters.count(each) for each in {*voters} - {None}) == voters.count(winner)
    assert voters.index(winner) == speaker


@given(tables, st.integers(0, 2**32 - 1))
def test_rows_are_brute_force_and_the_errors_are_scipys(table: list[list[str | None]], seed: int) -> None:
    rewards = np.random.default_rng(seed).integers(0, 3, (len(table), len(table[0]))) / 2
    centre = np.random.default_rng(seed + 1).random(len(table[0]))
    first, *rows = vote_rows(centre.tolist(), rewards, table)
    assert (first["models"], first["vote_change"]) == ("centre", 0)
    assert first["vote"] == pytest.approx(centre.mean())
    for k, row in enumerate(rows, start=1):
        vote = []
        for prompt in range(len(centre)):
            said = [table[voter][prompt] for voter in range(k)]
            most = max((said.count(each) for each in said if each is not None), default=0)
            speaks = [i for i, each in enumerate(said) if each is None or said.count(each) == most]
            speaks = [i for i in speaks if said[i] is not None] or [0]
            vote.append(rewards[speaks[0], prompt])
        for name, values in (("vote", np.array(vote)), ("mean", rewards[:k].mean(0))):
            assert row[name] == pytest.approx(values.mean())
            assert row[f"{name}_change"] == pytest.approx((values - centre).mean())
            assert row[f"{name}_change_se"] == pytest.approx(stats.sem(values - centre), abs=1e-12)
        assert row["over_best"] == pytest.approx((np.array(vote) - rewards[0]).mean())
        assert row["rollouts_per_prompt"] == k
    assert rows[0]["models"] == "best single"
    assert (rows[0]["vote"], rows[0]["over_best"]) == (rows[0]["mean"], 0)


def test_one_prompt_has_no_error() -> None:
    with pytest.raises(UsageError, match="at least 2"):
        vote_rows([0.0], np.zeros((1, 1)), [["4"]])
