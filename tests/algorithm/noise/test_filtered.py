"""Noise on some of the parameters: which patterns choose, what is refused, and a run in which others rest."""

import json
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import AdamW

from es_lightning.algorithm.noise import FilteredNoise, LowRankNoise, Noise
from es_lightning.errors import UsageError
from es_lightning.journal.replay import replay
from es_lightning.models import BaseModel
from tests.helpers.fits import Letters, fit

SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (100, 8),
    "model.layers.0.mlp.up_proj.weight": (8, 16),
    "model.layers.1.input_layernorm.weight": (8,),
    "model.layers.1.mlp.up_proj.weight": (8, 16),
    "model.layers.10.mlp.up_proj.weight": (8, 16),
    "model.layers.1.self_attn.q_proj.bias": (8,),
    "model.norm.weight": (8,),
}


def tuned(noise: Noise) -> set[str]:
    return {name for name, shape in SHAPES.items() if noise.perturbs(name, shape)}


@pytest.mark.parametrize(
    ("include", "exclude", "chosen"),
    [
        (None, ["*norm*", "*embed_tokens*"], "layers.0.mlp layers.1.mlp layers.10.mlp q_proj"),
        (["model.layers.1?.*"], None, "layers.10.mlp"),
        (["model.layers.1.*"], None, "layers.1."),
        (["model.layers.*"], ["*.bias", "*norm*"], "layers.0.mlp layers.1.mlp layers.10.mlp"),
        (["*.[01].mlp.*", "model.norm.weight"], [], "layers.0.mlp layers.1.mlp model.norm"),
        (["model.norm.weight"], None, "model.norm"),
        (["norm"], None, ""),  # a pattern has to match the whole name
        (["MODEL.*"], None, ""),  # and in its own case, on every system
        (["*"], ["*"], ""),
    ],
)
def test_patterns_choose_by_whole_names(
    include: list[str] | None, exclude: list[str] | None, chosen: str
) -> None:
    noise = FilteredNoise(include=include, exclude=exclude)
    assert tuned(noise) == {name for name in SHAPES if any(part in name for part in chosen.split())}


def test_a_kind_that_freezes_vectors_freezes_them_in_a_filter_as_well() -> None:
    noise = FilteredNoise(LowRankNoise(1, "frozen"), exclude=["*embed*"])
    assert tuned(noise) == {name for name in SHAPES if name.endswith("up_proj.weight")}


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        (
            FilteredNoise(exclude=["*"]),
            "model.noise leaves nothing to tune: all 7 parameters are frozen. Let",
        ),
        (FilteredNoise(include=["*norm*"], exclude=["*weight"]), "leaves nothing to tune"),
        (FilteredNoise(LowRankNoise(1, "frozen"), include=["*norm*"]), "leaves nothing to tune"),
        (
            FilteredNoise(include=["*norm*", "lm_head*"]),
            "the pattern lm_head* of model.noise matches none of",
        ),
        (FilteredNoise(exclude=["norm"]), "the pattern norm of model.noise matches none of the 7 parameters"),
        (FilteredNoise(include=[""]), "the pattern  of model.noise matches none"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_refused(noise: Noise, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        noise.check(SHAPES)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_refused_pattern_is_told_names_that_there_are() -> None:
    with pytest.raises(UsageError, match=r"called model\.embed_tokens\.weight, .*up_proj.*, model\.norm"):
        FilteredNoise(include=["h.*"]).check(SHAPES)


def test_filters_that_leave_something_are_taken() -> None:
    FilteredNoise(exclude=["*norm*", "*embed*"]).check(SHAPES)
    LowRankNoise(1, "frozen").check(SHAPES)
    with pytest.raises(UsageError, match="leaves nothing to tune: all 1 parameters"):
        LowRankNoise(1, "frozen").check({"model.norm.weight": (8,)})


@pytest.mark.parametrize("arguments", [{}, {"include": []}, {"exclude": []}, {"include": [], "exclude": []}])
def test_a_filter_without_patterns_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"^FilteredNoise has no patterns: give include, exclude or both\.$"):
        FilteredNoise(**arguments)


@pytest.mark.parametrize("patterns", ["*norm*", [5], ["a", None], {"a": "b"}])
def test_patterns_that_are_no_texts_are_refused(patterns: Any) -> None:
    """A text alone would be read letter by letter, and its ``*`` would match all."""
    with pytest.raises(UsageError, match="for patterns: give a list of texts"):
        FilteredNoise(exclude=patterns)


# Runs


@cache
def base() -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in BaseModel("tiny").load().named_parameters()}


def test_a_run_leaves_frozen_parameters_alone_and_replays(tmp_path: Path) -> None:
    """Whatever the optimizer does to others: AdamW would shrink a parameter without a gradient's help."""
    noise = FilteredNoise(LowRankNoise(2), exclude=["*norm*", "*embed_tokens*"])
    module, _ = fit(
        Letters(), tmp_path, 2, noise=noise, optimizer=lambda p: AdamW(p, lr=0.02, weight_decay=0.5)
    )
    moved = {name for name, theta in module.centre.named_parameters() if not torch.equal(theta, base()[name])}
    frozen = {name for name in base() if fnmatch(name, "*norm*") or fnmatch(name, "*embed_tokens*")}
    assert frozen
    assert moved == base().keys() - frozen
    header = json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[0])
    assert header["noise"] == noise.identity
    assert "norm" in header["settings"]["noise"]
    assert replay(tmp_path / "journal.jsonl", tmp_path / "model").checksum == module.checksum()
    rebuilt = BaseModel(str(tmp_path / "model"))
    stored = BaseModel("tiny")
    assert all(torch.equal(rebuilt.weights.read(name), stored.weights.read(name)) for name in frozen)


@pytest.mark.parametrize("noise", [FilteredNoise(exclude=["*"]), FilteredNoise(include=["*query*"])])
def test_a_run_with_a_filter_that_cannot_be_meant_ends_before_the_engine_starts(
    noise: Noise, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"model\.noise (leaves nothing to tune|matches none of)"):
        fit(Letters(), tmp_path, 1, noise=noise)
    assert not (tmp_path / "journal.jsonl").exists()
