"""Batches are a function of the generation; empty or short splits are refused."""

from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import UsageError
from es_lightning.records import Prompt
from es_lightning.task import Task


class Numbers(Task):
    """Ten training problems, three of validation, no test."""

    def problems(self, split: str) -> list[Prompt]:
        return [Prompt(f"{split}/{i}", str(i)) for i in range({"train": 10, "val": 3, "test": 0}[split])]

    def reward(self, prompt: Prompt, completion: str) -> float:
        return 0.0


def ids(prompts: list[Prompt]) -> list[str]:
    return [prompt.id for prompt in prompts]


def test_the_whole_split_is_one_batch_unless_told_otherwise() -> None:
    data = TaskDataModule(Numbers())
    assert ids(data.batch(0)) == ids(data.batch(7)) == [f"train/{i}" for i in range(10)]


@given(st.integers(1, 9), st.integers(0, 1000), st.integers(0, 5))
def test_a_batch_depends_on_seed_and_generation_alone(size: int, generation: int, seed: int) -> None:
    first = TaskDataModule(Numbers(), size, seed=seed)
    first.batch(generation + 1)
    second = TaskDataModule(Numbers(), size, seed=seed)
    assert ids(first.batch(generation)) == ids(second.batch(generation))


@given(st.integers(1, 10), st.integers(0, 20))
def test_a_pass_takes_no_prompt_twice(size: int, number: int) -> None:
    data = TaskDataModule(Numbers(), size)
    per_pass = 10 // size
    batches = [ids(data.batch(number * per_pass + i)) for i in range(per_pass)]
    taken = [name for batch in batches for name in batch]
    assert len(set(taken)) == len(taken) == per_pass * size


def test_fixed_prompts_are_those_of_the_first_generation() -> None:
    fixed, passes = TaskDataModule(Numbers(), 4, seed=2, draw="fixed"), TaskDataModule(Numbers(), 4, seed=2)
    assert {tuple(ids(fixed.batch(g))) for g in range(9)} == {tuple(ids(passes.batch(0)))}


def test_independent_draws_repeat_prompts_as_often_as_chance_has_it() -> None:
    """Of two generations' 4 of 10 prompts, 4 * 4 / 10 are the same on average; each comes as often."""
    data = TaskDataModule(Numbers(), 4, draw="independent")
    batches = [set(ids(data.batch(g))) for g in range(2001)]
    assert {len(batch) for batch in batches} == {4}
    common = [len(one & other) for one, other in pairwise(batches)]
    assert sum(common) / 2000 == pytest.approx(1.6, abs=4.5 * (4 * 0.4 * 0.6 * 6 / 9 / 2000) ** 0.5)
    counts = Counter(name for batch in batches for name in batch)
    assert min(counts.values()) > 700
    assert ids(TaskDataModule(Numbers(), 4, draw="independent").batch(7)) == ids(data.batch(7))


def test_an_unknown_way_to_draw_is_refused() -> None:
    with pytest.raises(UsageError, match="draw is random: give passes, independent or fixed"):
        TaskDataModule(Numbers(), 4, draw="random")  # type: ignore[arg-type]


def test_passes_and_seeds_differ_in_order() -> None:
    orders = {
        tuple(ids(TaskDataModule(Numbers(), 9, seed=seed).batch(g))) for seed in range(3) for g in range(3)
    }
    assert len(orders) == 9


@pytest.mark.parametrize(
    ("max_steps", "step", "generations"),
    [(-1, 0, [0, 1]), (-1, 2, [2, 3]), (-1, 5, [5]), (7, 0, list(range(7))), (7, 3, [3, 4, 5, 6])],
)
def test_every_epoch_goes_on_with_the_next_generation(
    max_steps: int, step: int, generations: list[int]
) -> None:
    data = TaskDataModule(Numbers(), 4)
    data.trainer = SimpleNamespace(max_steps=max_steps, global_step=step)  # type: ignore[assignment]
    assert [ids(batch) for batch in data.train_dataloader()] == [ids(data.batch(g)) for g in generations]


def test_prompts_are_encoded_once() -> None:
    calls: list[int] = []

    def encoder(prompts: list[Prompt]) -> list[Prompt]:
        calls.append(len(prompts))
        return [Prompt(p.id, p.text, token_ids=(1, 2)) for p in prompts]

    data = TaskDataModule(Numbers(), 4)
    data.encode("train", encoder)
    assert all(prompt.token_ids == (1, 2) for prompt in data.batch(0))
    assert calls == [10]


def test_an_empty_split_is_named() -> None:
    with pytest.raises(UsageError, match="no problems in split 'test'"):
        TaskDataModule(Numbers()).prompts("test")


@pytest.mark.parametrize(
    ("limit", "message"),
    [(1.0, "task Numbers has no problems in split 'test'"), (0, "trainer.limit_val_batches is 0: leave one")],
)
def test_tests_at_validations_need_both(limit: float, message: str) -> None:
    data = TaskDataModule(Numbers(), 4, test_with_val=True)
    data.trainer = SimpleNamespace(limit_val_batches=limit)  # type: ignore[assignment]
    with pytest.raises(UsageError, match=message):
        data.splits_for("fit")
    assert data.splits_for("validate") == ["val"]


def test_more_prompts_than_there_are_is_refused() -> None:
    with pytest.raises(UsageError, match="11, but task Numbers has 10"):
        TaskDataModule(Numbers(), 11).batch(0)


@pytest.mark.parametrize("option", ["prompts_per_generation", "val_prompts", "test_prompts"])
def test_sizes_below_one_are_refused(option: str) -> None:
    with pytest.raises(UsageError, match=option):
        TaskDataModule(Numbers(), **{option: 0})


def test_limits_take_the_first_problems() -> None:
    assert ids(TaskDataModule(Numbers(), val_prompts=2).prompts("val")) == ["val/0", "val/1"]


def test_problems_that_the_encoder_leaves_out_are_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    data = TaskDataModule(Numbers(), drop_long_prompts=True)
    for _ in range(2):
        kept = data.encode("train", lambda prompts: [prompt for prompt in prompts if prompt.text != "3"])
        assert ids(kept) == ids(data.prompts("train")) == [f"train/{i}" for i in range(10) if i != 3]
    data.encode("val", lambda prompts: prompts)
    assert data.dropped == {"train": 1}
    assert data.batch_size == 9
    assert caplog.text.count("1 of 10 problems of split train are too long") == 1
    assert "train/3 first" in caplog.text
