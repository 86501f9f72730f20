"""Members as adapters in one batch: completions as with whole weights, noise within reach, and failures."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from es_lightning.algorithm.noise import (
    CorrelatedNoise,
    FilteredNoise,
    GaussianNoise,
    LowRankNoise,
    Noise,
    noise_of,
)
from es_lightning.algorithm.population import Population
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import DivergenceError, RolloutError, UsageError
from es_lightning.evaluation import Rollouts
from es_lightning.evaluation.engine_check import EngineCheck
from es_lightning.evaluation.kl_penalty import KLPenalty
from es_lightning.evaluation.members import adapters
from es_lightning.evaluation.reach import within_reach
from es_lightning.grading.scorer import Grading
from es_lightning.journal import read_journal
from es_lightning.journal.replay import replay
from es_lightning.models import BaseModel
from es_lightning.records import Choice, Prompt
from es_lightning.rollout import HFEngine, Sampling, VLLMAdapterEngine
from es_lightning.rollout.adapters import even_share
from tests.helpers import ranks
from tests.helpers.fits import Letters, Records, fit, module, trainer
from tests.helpers.thin import Doubled, HFAdapters, Mixed, NoKeys, Stale

SIGMA = 0.05
PROMPTS = [
    Prompt("a", "first"),
    Prompt("c", "c", choices=(Choice("yes"), Choice("no"))),
    Prompt("b", "a longer one"),
]
MATRICES = LowRankNoise(vectors="frozen")
WITHIN = FilteredNoise(LowRankNoise(rank=2), exclude=["*norm*", "*embed_tokens*"])


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return BaseModel("tiny")


@pytest.fixture(scope="module")
def centre(base: BaseModel) -> nn.Module:
    return base.load()


@pytest.fixture(scope="module")
def shapes(centre: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in centre.named_parameters()}


def started(
    base: BaseModel, centre: nn.Module, engine: HFEngine, noise: Noise, members: int, **options: Any
) -> tuple[Rollouts, list[Prompt], Noise]:
    rollouts = Rollouts(engine, Sampling(max_tokens=6, temperature=1.0), **options)
    limited = rollouts.limited(noise, base, centre, members)
    prompts = rollouts.reserve(base, PROMPTS)
    rollouts.start(base)
    return rollouts, prompts, limited


def require_same(found: Any, expected: Any) -> None:
    """The same texts, and log-probabilities to 1e-3 nats per token."""
    for (member, ours), (same, theirs) in zip(found, expected, strict=True):
        assert member == same
        for one, other in zip(ours, theirs, strict=True):
            assert replace(one, choice_logprobs=()) == replace(other, choice_logprobs=())
            assert one.choice_logprobs == pytest.approx(other.choice_logprobs, abs=1e-3)


# The same as whole weights --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "most", "batches"),
    [(LowRankNoise(), None, [6]), (MATRICES, 1, [1] * 6), (WITHIN, 4, [3, 3])],  # of even size
    ids=["all", "matrices", "within"],
)
def test_a_population_in_batches_says_what_it_says_one_after_the_other(
    base: BaseModel, centre: nn.Module, noise: Noise, most: int | None, batches: list[int]
) -> None:
    members = Population(6, antithetic=True).members(3)
    engine = HFAdapters(most)
    rollouts, prompts, limited = started(base, centre, engine, noise, len(members))
    found = list(rollouts.population(centre, members, limited, SIGMA, prompts, generation=3))
    plain, _, same = started(base, centre, HFEngine("float32", "cpu"), limited, len(members))
    assert same is limited
    require_same(found, list(plain.population(centre, members, limited, SIGMA, prompts, generation=3)))
    assert len({completion.text for _, each in found for completion in each}) > 3
    assert (engine.batches, engine.loads, engine.rank) == (batches, 1, noise.rank)


@pytest.mark.parametrize(
    ("count", "most", "share"),
    [(0, 4, 0), (1, 4, 1), (4, 4, 4), (5, 4, 3), (30, 16, 15), (65, 64, 33), (6, 1, 1), (7, 3, 3)],
)
def test_batches_are_of_even_size(count: int, most: int, share: int) -> None:
    assert even_share(count, most) == share


def test_the_two_of_a_pair_share_what_is_drawn(centre: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    original = LowRankNoise.all_factors

    def counted(self: Any, seed: int, *args: Any) -> Any:
        asked.append(seed)
        return original(self, seed, *args)

    monkeypatch.setattr(LowRankNoise, "all_factors", counted)
    members = Population(4, antithetic=True).members(0)
    found = [list(each) for each in adapters(centre, members, MATRICES, SIGMA)]
    assert asked == [members[0].seed, members[2].seed]
    for (name, left, right), (same, other, again) in zip(found[0], found[1], strict=True):
        assert name == same
        assert torch.equal(left, -other)
        assert torch.equal(right, again)
        theta = centre.get_parameter(name)
        eps = MATRICES.sample(members[0].seed, name, theta.shape)
        torch.testing.assert_close(left @ right.T, SIGMA * eps, atol=1e-6, rtol=1e-5)


def test_the_centre_is_loaded_again_after_an_update_alone(base: BaseModel, centre: nn.Module) -> None:
    engine = HFAdapters()
    rollouts, prompts, noise = started(base, centre, engine, MATRICES, 2)
    members = Population(2).members(0)
    for _ in range(3):
        list(rollouts.population(centre, members, noise, SIGMA, prompts))
    rollouts.hold_centre(centre)
    assert engine.loads == 1
    rollouts.forget()
    list(rollouts.population(centre, members, noise, SIGMA, prompts))
    assert engine.loads == 2


def test_an_engine_that_expects_no_adapters_says_so(base: BaseModel, centre: nn.Module) -> None:
    rollouts = Rollouts(HFAdapters(), Sampling(max_tokens=6))
    with pytest.raises(RuntimeError, match="no room for adapters: call limited before start"):
        list(rollouts.population(centre, Population(2).members(0), MATRICES, SIGMA, []))


# Noise within reach ---------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [HFAdapters, pytest.param(VLLMAdapterEngine, marks=pytest.mark.vllm)])
@pytest.mark.parametrize(
    ("noise", "kind"),
    [
        (GaussianNoise(), "GaussianNoise"),
        (CorrelatedNoise(), "CorrelatedNoise"),
        (FilteredNoise(GaussianNoise(), exclude=["*norm*"]), "GaussianNoise"),
        (None, "GaussianNoise"),
    ],
)
def test_noise_that_is_not_of_low_rank_is_refused_at_once(
    engine: Any, noise: Noise | None, kind: str
) -> None:
    with pytest.raises(UsageError, match=f"{engine.__name__} holds .* as adapters, and {kind} is not of"):
        module(engine=engine(), noise=noise)


def test_what_adapters_do_not_reach_is_frozen_by_a_filter_that_a_journal_can_hold(
    shapes: dict[str, tuple[int, ...]],
) -> None:
    reached = [name for name in shapes if "proj" in name]
    limited = within_reach(LowRankNoise(rank=2), shapes, reached, "Engine")
    assert isinstance(limited, FilteredNoise)
    assert limited.exclude == [
        "model.embed_tokens.weight",
        "model.layers.*.input_layernorm.weight",
        "model.layers.*.post_attention_layernorm.weight",
        "model.norm.weight",
    ]
    again = noise_of(limited.identity)
    assert again.identity == limited.identity
    assert [name for name, shape in shapes.items() if again.perturbs(name, shape)] == reached
    for name in ("model.layers.0.mlp.up_proj.weight", "model.norm.weight"):
        drawn = again.sample(3, name, shapes[name])
        assert torch.equal(drawn, LowRankNoise(rank=2).sample(3, name, shapes[name]) * (name in reached))
    assert within_reach(limited, shapes, reached, "Engine") is limited
    assert within_reach(WITHIN, shapes, reached, "Engine") is WITHIN


def test_a_pattern_that_would_catch_a_parameter_within_reach_gives_way_to_names(
    shapes: dict[str, tuple[int, ...]],
) -> None:
    reached = [name for name in shapes if "layers.1.mlp" in name]
    limited = within_reach(LowRankNoise(vectors="frozen"), shapes, reached, "Engine")
    assert [name for name, shape in shapes.items() if limited.perturbs(name, shape)] == reached
    assert "model.layers.0.mlp.up_proj.weight" in limited.exclude  # type: ignore[attr-defined]


def test_noise_out_of_reach_alone_is_refused(shapes: dict[str, tuple[int, ...]]) -> None:
    noise = FilteredNoise(LowRankNoise(), include=["*norm*"])
    with pytest.raises(UsageError, match="Engine reaches none of the 5 parameters that model.noise perturbs"):
        within_reach(noise, shapes, ["model.layers.0.mlp.up_proj.weight"], "Engine")


# A run ----------------------------------------------------------------------------------------------


def lines(folder: Path) -> list[dict[str, Any]]:
    _, entries = read_journal(folder / "journal.jsonl")
    return [
        {key: value for key, value in json.loads(entry.line()).items() if key != "seconds"}
        for entry in entries
    ]


def test_a_run_says_once_what_it_freezes_and_its_journal_replays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        tuned, _ = fit(Letters(), tmp_path / "run", engine=HFAdapters(3), noise=LowRankNoise(rank=2))
    said = [record.message for record in caplog.records if "adapters" in record.message]
    assert said == [
        "HFAdapters holds members as adapters, and freezes 6 of 20 parameters (15% of the numbers): "
        "model.embed_tokens.weight, model.layers.*.input_layernorm.weight, "
        "model.layers.*.post_attention_layernorm.weight, model.norm.weight."
    ]
    header, _ = read_journal(tmp_path / "run" / "journal.jsonl")
    assert header["noise"] == tuned.noise.identity
    assert "embed_tokens" in header["noise"]
    assert header["engine_check"]["difference"] <= 0.001
    first = BaseModel("tiny").load()
    for name, parameter in tuned.centre.named_parameters():
        assert torch.equal(parameter, first.get_parameter(name)) == ("proj" not in name)
    entry = replay(tmp_path / "run" / "journal.jsonl", tmp_path / "replayed")
    assert entry.checksum == tuned.centre_checksum
    # The wrong way: an update with what no member has had gives another centre.
    text = (tmp_path / "run" / "journal.jsonl").read_text(encoding="utf-8")
    wrong = text.replace(json.dumps(tuned.noise.identity), json.dumps(LowRankNoise(rank=2).identity), 1)
    (tmp_path / "wrong.jsonl").write_text(wrong, encoding="utf-8")
    with pytest.raises(UsageError, match="came out with checksum"):
        replay(tmp_path / "wrong.jsonl", tmp_path / "wrong")


def test_a_run_resumes_and_goes_on_with_another_engine_and_the_noise_of_its_header(tmp_path: Path) -> None:
    whole, _ = fit(Letters(), tmp_path / "whole", steps=2, engine=HFAdapters(), noise=LowRankNoise())
    saved = ModelCheckpoint(tmp_path / "half", save_top_k=1)
    data = TaskDataModule(Letters(), grading=Grading(workers=0))
    run = trainer(tmp_path / "half", 1, [saved], enable_checkpointing=True)
    run.fit(module(engine=HFAdapters(), noise=LowRankNoise()), data)
    for engine, noise in ((HFAdapters(2), LowRankNoise()), (HFEngine("float32", "cpu"), whole.noise)):
        tuned = module(engine=engine, noise=noise)
        folder = tmp_path / type(engine).__name__
        folder.mkdir()
        (folder / "journal.jsonl").write_bytes((tmp_path / "half" / "journal.jsonl").read_bytes())
        trainer(folder, 2, [Records()]).fit(tuned, data, ckpt_path=saved.best_model_path)
        assert tuned.centre_checksum == whole.centre_checksum
        assert lines(folder) == lines(tmp_path / "whole")


def test_the_kl_penalty_scores_each_member_with_its_own_adapter(tmp_path: Path) -> None:
    rewards = []
    for engine in (HFAdapters(3), HFEngine("float32", "cpu")):
        folder = tmp_path / type(engine).__name__
        options = {"kl_penalty": KLPenalty(0.5), "sampling": Sampling(max_tokens=6, temperature=1.0)}
        _, records = fit(Letters(), folder, steps=1, engine=engine, noise=WITHIN, **options)
        rewards.append(torch.stack([record.rewards for record in records.generations]))
        assert all(record.scores["kl"] > 0 for record in records.generations)
    torch.testing.assert_close(*rewards, atol=1e-4, rtol=0)


@pytest.mark.ddp
@pytest.mark.slow
def test_two_ranks_have_the_bits_of_one(tmp_path: Path) -> None:
    runs = []
    for world in (1, 2):
        options = {"engine": HFAdapters(2), "noise": LowRankNoise(), "population": 6, "antithetic": True}
        runs.append(ranks.Run(tmp_path / str(world), steps=3, options=options))
        assert ranks.fit(runs[-1], world) == [0] * world
    one, two = runs
    assert two.report(0)["checksum"] == two.report(1)["checksum"] == one.report()["checksum"]
    assert one.lines() == two.lines()


# Failures -------------------------------------------------------------------------------------------


def test_a_batch_that_fails_once_is_tried_again_if_asked_for(base: BaseModel, centre: nn.Module) -> None:
    members = Population(3).members(7)
    engine = HFAdapters(2, failures=1)
    rollouts, prompts, noise = started(base, centre, engine, MATRICES, 3, retry_member=True)
    told = list(rollouts.population(centre, members, noise, SIGMA, prompts, generation=7))
    assert (engine.batches, engine.loads) == ([2, 2, 1], 2)
    plain, _, _ = started(base, centre, HFAdapters(), MATRICES, 3)
    require_same(told, list(plain.population(centre, members, noise, SIGMA, prompts, generation=7)))
    never, _, _ = started(base, centre, HFAdapters(2, failures=1), MATRICES, 3)
    with pytest.raises(RolloutError, match="failed on members 0, 1 of generation 7 .RuntimeError: out of"):
        list(never.population(centre, members, noise, SIGMA, prompts, generation=7))


@pytest.mark.parametrize("prompt", [0, 1], ids=["generated", "choices"])
def test_the_member_whose_logprobs_are_not_finite_is_named(
    base: BaseModel, centre: nn.Module, prompt: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = Population(4).members(3)
    rollouts, prompts, noise = started(base, centre, HFAdapters(2), MATRICES, 4)
    original = LowRankNoise.all_factors

    def one_is_bad(self: Any, seed: int, *args: Any) -> Any:
        found = original(self, seed, *args)
        scale = torch.inf if seed == members[3].seed else 1.0
        return {name: (left * scale, right) for name, (left, right) in found.items()}

    monkeypatch.setattr(LowRankNoise, "all_factors", one_is_bad)
    with pytest.raises(DivergenceError, match="not finite for member 3 of generation 3"):
        list(rollouts.population(centre, members, noise, SIGMA, prompts[prompt : prompt + 1], generation=3))


# The check of the engine ----------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "most"), [("float32", None), ("bfloat16", 1)])
def test_a_right_engine_passes_the_check(
    base: BaseModel, centre: nn.Module, dtype: str, most: int | None
) -> None:
    engine = HFAdapters(most, dtype)
    rollouts, _, noise = started(base, centre, engine, LowRankNoise(), 4)
    result = EngineCheck(rollouts, noise).run(centre)
    assert result["difference"] <= result["bound"]
    assert engine.batches == [most or 2]
    for name, parameter in engine.model.named_parameters():
        assert torch.equal(parameter, centre.get_parameter(name).to(parameter.dtype))


@pytest.mark.parametrize(
    ("engine", "dtype", "off"),
    [
        (Mixed, "float32", r"model\.layers\.\*\.self_attn\.q_proj, .* and 3 more\."),
        (Doubled, "bfloat16", r"model\.layers\.\*\.self_attn\.q_proj, .* and 3 more\."),
        (NoKeys, "bfloat16", r"model\.layers\.\*\.self_attn\.k_proj\."),
    ],
)
def test_an_engine_with_wrong_adapters_is_refused(
    base: BaseModel, centre: nn.Module, engine: Any, dtype: str, off: str
) -> None:
    rollouts, _, noise = started(base, centre, engine(dtype=dtype), LowRankNoise(), 4)
    kind = engine.__name__
    words = rf"{kind} differs .* on adapters beside a Llama.*off: {off} Take --model.engine VLLMEngine"
    with pytest.raises(UsageError, match=words) as raised:
        EngineCheck(rollouts, noise).run(centre)
    assert "\n" not in str(raised.value)


def test_an_engine_that_goes_on_with_earlier_adapters_is_refused(base: BaseModel, centre: nn.Module) -> None:
    rollouts, _, noise = started(base, centre, Stale(1), LowRankNoise(), 4)
    engine = rollouts.engine
    assert isinstance(engine, Stale)
    rollouts.hold_centre(centre)
    engine.load_adapters([[]])
    with pytest.raises(UsageError, match="Stale differs from transformers on adapters beside"):
        EngineCheck(rollouts, noise).run(centre)
