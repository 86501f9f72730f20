"""Members: a pure function of run seed and generation, and no seed twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_lightning.algorithm.population import Population
from es_lightning.errors import UsageError


@given(st.integers(), st.integers(0, 10**6), st.integers(2, 64))
def test_members_are_a_function_of_run_seed_and_generation(run_seed: int, generation: int, size: int) -> None:
    members = Population(size, run_seed).members(generation)
    assert members == Population(size, run_seed).members(generation)
    assert [member.index for member in members] == list(range(size))
    assert len({member.seed for member in members}) == size


def test_no_seed_comes_twice_in_neighbouring_runs_and_generations() -> None:
    seeds = [m.seed for run in (0, 1, 2, 42, 43) for g in range(50) for m in Population(30, run).members(g)]
    assert len(set(seeds)) == len(seeds)


def test_a_smaller_population_is_the_beginning_of_a_larger_one() -> None:
    assert Population(30).members(3)[:16] == Population(16).members(3)


def test_antithetic_members_come_in_pairs_of_opposite_signs() -> None:
    members = Population(8, 1, antithetic=True).members(2)
    for plus, minus in zip(members[::2], members[1::2], strict=True):
        assert plus.seed == minus.seed
        assert (plus.sign, minus.sign) == (1, -1)
    assert len({member.seed for member in members}) == 4


@pytest.mark.parametrize("size", [1, 0, -3])
def test_a_population_below_two_is_refused(size: int) -> None:
    with pytest.raises(UsageError, match="at least 2"):
        Population(size)


def test_an_odd_number_of_antithetic_members_is_refused() -> None:
    with pytest.raises(UsageError, match="even"):
        Population(7, antithetic=True)


def test_the_centre_takes_the_place_of_the_first_member_and_of_no_other() -> None:
    kept, drawn = Population(8, 3, keep_centre=True), Population(8, 3)
    assert [member.sign for member in kept.members(5)] == [0] + [1] * 7
    assert kept.members(5)[1:] == drawn.members(5)[1:]
    assert [member.sign for member in kept.resized(3.6).members(0)] == [0, 1, 1, 1]


def test_pairs_and_the_centre_do_not_go_together() -> None:
    with pytest.raises(UsageError, match="set antithetic to false"):
        Population(8, antithetic=True, keep_centre=True)
