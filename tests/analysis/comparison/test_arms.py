"""Which runs are one arm, and what it is called."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_lightning.analysis.comparison.arms import arms_of, differing, shortest
from es_lightning.analysis.comparison.runs import Evaluated, Run
from es_lightning.analysis.comparison.settings import deciding, flat_config, seed_of
from es_lightning.errors import UsageError
from tests.helpers.compared_runs import config

EVALUATED = (Evaluated(0, "val", {"a": 0.0}),)


def run(name: str, seed: str | None = None, method: str = "ES", checksum: Any = None, **settings: Any) -> Run:
    named = {key.replace("__", "."): value for key, value in settings.items()}
    return Run(name, method, seed, "Sums", named, EVALUATED, checksum=checksum)


SETTINGS = st.fixed_dictionaries({"model.sigma": st.sampled_from([1, 2]), "model.n": st.sampled_from([1, 2])})


@given(st.lists(SETTINGS, min_size=1, max_size=12))
def test_arms_are_the_classes_of_equal_settings(every: list[dict[str, int]]) -> None:
    runs = [Run(str(n), "ES", str(n), "Sums", settings, EVALUATED) for n, settings in enumerate(every)]
    arms = arms_of(runs, [None] * len(runs))
    assert sorted(int(each.name) for arm in arms for each in arm.runs) == list(range(len(runs)))
    for arm in arms:
        assert all(each.settings == arm.runs[0].settings for each in arm.runs)
        assert arm.mixed == ()
    firsts = [arm.runs[0] for arm in arms]
    assert len({tuple(sorted(each.settings.items())) for each in firsts}) == len(arms)
    assert [int(each.name) for each in firsts] == sorted(int(each.name) for each in firsts)
    assert len({arm.label for arm in arms}) == len(arms)


def test_labels_tell_what_differs_among_the_arms_of_a_method() -> None:
    runs = [
        run("a", "0", model__sigma=0.001, model__optimizer__lr=0.1, data__n=3),
        run("b", "0", model__sigma=0.002, model__optimizer__lr=0.1, data__n=3),
        run("c", "0", "GRPO", baseline__lr=1e-6),
    ]
    labels = [arm.label for arm in arms_of(runs, [None] * 3)]
    assert labels == ["ES, sigma 0.001", "ES, sigma 0.002", "GRPO"]


def test_more_than_three_differences_are_counted_and_labels_stay_apart() -> None:
    runs = [run(str(n), "0", a=1, b=1, c=1, d=n, e=n) for n in (1, 2)]
    runs += [run("x", "0", a=2, b=2, c=2, d=1, e=1)]
    labels = [arm.label for arm in arms_of(runs, [None] * 3)]
    assert labels == ["ES, a 1, b 1, c 1, and 2 more (1)", "ES, a 1, b 1, c 1, and 2 more (2)", labels[2]]
    assert labels[2] == "ES, a 2, b 2, c 2, and 2 more"


def test_labels_by_hand_win_and_say_what_they_mix() -> None:
    runs = [run("a", "0", sigma=1), run("b", "1", sigma=2), run("c", "1", sigma=1)]
    arms = arms_of(runs, ["ours", "ours", None])
    assert [(arm.label, arm.seeds, arm.mixed) for arm in arms] == [("ours", 2, ("sigma",)), ("ES", 1, ())]


@pytest.mark.parametrize(
    "again",
    [run("b", "0", sigma=1), run("b", "5", sigma=1, checksum="ff"), run("b", None, n=3, checksum="ff")],
)
def test_a_training_that_is_there_twice_is_refused(again: Run) -> None:
    first = run("a", "0", sigma=1, checksum="ff")
    with pytest.raises(UsageError, match="a and b are the same training"):
        arms_of([first, again], ["x", "x"])


def test_names_are_shortened_to_what_tells_them_apart() -> None:
    assert shortest(["model.sigma", "model.optimizer.lr", "baseline.lr"]) == [
        "sigma",
        "optimizer.lr",
        "baseline.lr",
    ]
    assert differing([{"a": 1, "b": None}, {"a": 1}]) == ["b"]


def test_seeds_places_and_watchers_do_not_make_an_arm() -> None:
    one = config()
    other = config(
        seed_everything=7,
        **{
            "trainer.default_root_dir": "elsewhere",
            "trainer.logger": False,
            "trainer.callbacks": [
                {"class_path": "es_lightning.callbacks.KLDrift", "init_args": {"every": 5}}
            ],
            "checkpoint.save_top_k": 3,
            "overwrite": True,
        },
    )
    flat = [flat_config(each) for each in (one, other)]
    assert deciding(flat[0]) == deciding(flat[1])
    assert [seed_of(each) for each in flat] == ["0", "7"]
    assert deciding(flat[0])["model.optimizer"] == "torch.optim.SGD"
    assert deciding(flat[0])["model.optimizer.lr"] == 0.1


def test_callbacks_that_change_a_training_do() -> None:
    peak = {"class_path": "es_lightning.callbacks.EarlyPeak", "init_args": {"patience": 5}}
    settings = deciding(flat_config(config(**{"trainer.callbacks": [peak]})))
    assert settings["trainer.callbacks.EarlyPeak.patience"] == 5


def test_a_second_seed_is_told_beside_the_first() -> None:
    assert seed_of({"seed_everything": 3, "baseline.seed": 0}) == "3/0"
    assert seed_of({"model.seed": 2, "data.seed": 2}) == "2"
    assert seed_of({"model.sigma": 1}) is None
