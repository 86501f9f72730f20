"""Rollouts without a Trainer: room, the weights that the engine holds, and a population of members."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from es_lightning.algorithm.noise import GaussianNoise
from es_lightning.algorithm.population import Population
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import DivergenceError, RolloutError, UsageError
from es_lightning.evaluation import Rollouts, Stage
from es_lightning.grading.scorer import Grading
from es_lightning.models import BaseModel
from es_lightning.records import Choice, Prompt
from es_lightning.rollout import HFEngine, Sampling
from tests.helpers.fits import Letters, Records, module, trainer

PROMPTS = [Prompt("a", "first"), Prompt("b", "a longer one")]
NOISE, SIGMA = GaussianNoise(compile=False), 0.05


class Engine(HFEngine):
    """Counts what it is asked for, and fails when it is told to."""

    def __init__(self, failures: int = 0) -> None:
        super().__init__(dtype="float32", device="cpu")
        self.room: list[int] = []
        self.loads = self.closed = 0
        self.failures = failures

    def start(self, folder: Path, max_length: int) -> None:
        self.room.append(max_length)
        super().start(folder, max_length)

    def load_weights(self, named_tensors: Any) -> None:
        self.loads += 1
        super().load_weights(named_tensors)

    def generate(self, prompts: Any, sampling: Sampling) -> Any:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("out of memory")
        return super().generate(prompts, sampling)

    def close(self) -> None:
        self.closed += 1
        super().close()


@pytest.fixture
def base() -> BaseModel:
    return BaseModel("tiny")


@pytest.fixture
def centre(base: BaseModel) -> nn.Module:
    return base.load()


def started(base: BaseModel, engine: Engine, **options: Any) -> tuple[Rollouts, list[Prompt]]:
    rollouts = Rollouts(engine, Sampling(max_tokens=6), **options)
    prompts = rollouts.reserve(base, PROMPTS)
    rollouts.start(base)
    return rollouts, prompts


def test_the_engine_gets_room_for_the_longest_prompt_that_was_reserved(base: BaseModel) -> None:
    engine = Engine()
    rollouts, prompts = started(base, engine)
    longest = max(len(prompt.token_ids) for prompt in prompts) + 6
    assert engine.room == [longest]
    rollouts.reserve(base, PROMPTS, max_tokens=2)
    rollouts.start(base)
    assert engine.room == [longest], "there is room enough"
    rollouts.reserve(base, PROMPTS, max_tokens=9)
    rollouts.start(base)
    assert engine.room == [longest, longest + 3]
    assert engine.closed == 1


def test_prompts_longer_than_the_model_are_refused(base: BaseModel) -> None:
    with pytest.raises(UsageError, match="prompt b has .* the model ends at 1024: lower max_tokens"):
        Rollouts(Engine(), Sampling(max_tokens=1023)).reserve(base, PROMPTS)


def test_prompts_longer_than_the_model_can_be_left_out(base: BaseModel) -> None:
    rollouts = Rollouts(Engine(), Sampling(max_tokens=1000))
    lengths = {prompt.id: len(prompt.token_ids) for prompt in rollouts.reserve(base, PROMPTS, 1)}
    room = 1024 - min(lengths.values())
    kept = rollouts.reserve(base, PROMPTS, room, drop_long=True)
    assert [prompt.id for prompt in kept] == [each for each in lengths if lengths[each] + room <= 1024]
    assert 0 < len(kept) < len(PROMPTS)
    with pytest.raises(UsageError, match="lower max_tokens, or leave such problems out with data.drop_long"):
        rollouts.reserve(base, PROMPTS, room)
    with pytest.raises(UsageError, match=r"the model ends at 1024: lower max_tokens\."):
        rollouts.reserve(base, PROMPTS, 1024, drop_long=True)


def test_options_of_the_chat_template_are_plain_json() -> None:
    with pytest.raises(UsageError, match=r"model.chat_template_kwargs is no plain JSON \("):
        Rollouts(Engine(), chat_template_kwargs={"date": object()})
    assert list(Rollouts(Engine(), chat_template_kwargs={"b": 1, "a": 2}).chat_template_kwargs) == ["a", "b"]


def test_weights_are_loaded_once_as_long_as_they_are_held(base: BaseModel, centre: nn.Module) -> None:
    engine = Engine()
    rollouts, prompts = started(base, engine)
    rollouts.hold_centre(centre)
    rollouts.hold_centre(centre)
    assert engine.loads == 1
    of_base = rollouts.complete(prompts)
    with torch.no_grad():
        for parameter in centre.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    rollouts.hold_centre(centre)
    assert engine.loads == 1, "nobody has said that the centre has changed"
    rollouts.forget()
    rollouts.hold_centre(centre)
    assert rollouts.complete(prompts) != of_base
    rollouts.hold_base(base, centre)
    rollouts.hold_base(base, centre)
    assert engine.loads == 3
    assert rollouts.complete(prompts) == of_base
    rollouts.hold_centre(centre)
    assert engine.loads == 4


def test_members_come_one_after_the_other_each_with_its_own_weights(
    base: BaseModel, centre: nn.Module
) -> None:
    rollouts, prompts = started(base, Engine())
    members = Population(3).members(0)
    told = list(rollouts.population(centre, members, NOISE, SIGMA, prompts))
    assert [member for member, _ in told] == list(members)
    reference = base.load()
    for member, completions in told:
        with torch.no_grad():
            for name, parameter in reference.named_parameters():
                theta = centre.get_parameter(name)
                parameter.copy_(theta + NOISE.sample(member.seed, name, theta.shape) * SIGMA)
        for prompt, completion in zip(prompts, completions, strict=True):
            ids = torch.tensor([prompt.token_ids])
            answer = reference.generate(ids, do_sample=False, max_new_tokens=6)[0, ids.shape[1] :]
            assert completion.token_ids == tuple(answer.tolist())


def test_the_centre_and_the_global_generator_are_left_alone(base: BaseModel, centre: nn.Module) -> None:
    rollouts, prompts = started(base, Engine())
    before, state = [p.clone() for p in centre.parameters()], torch.get_rng_state()
    list(rollouts.population(centre, Population(2).members(0), NOISE, SIGMA, prompts))
    assert all(torch.equal(a, b) for a, b in zip(before, centre.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state())


def test_a_member_that_fails_once_is_tried_again_if_asked_for(base: BaseModel, centre: nn.Module) -> None:
    members = Population(2).members(7)
    rollouts, prompts = started(base, Engine(failures=1), retry_member=True)
    with_fault = list(rollouts.population(centre, members, NOISE, SIGMA, prompts, generation=7))
    plain, _ = started(base, Engine())
    assert with_fault == list(plain.population(centre, members, NOISE, SIGMA, prompts, generation=7))
    twice, _ = started(base, Engine(failures=2), retry_member=True)
    with pytest.raises(RolloutError, match="member 0 of generation 7 twice .RuntimeError: out of memory"):
        list(twice.population(centre, members, NOISE, SIGMA, prompts, generation=7))
    never, _ = started(base, Engine(failures=1))
    with pytest.raises(RolloutError, match="member 0 of generation 7 .RuntimeError: out of memory"):
        list(never.population(centre, members, NOISE, SIGMA, prompts, generation=7))


def test_a_lane_of_several_ranks_cannot_try_again() -> None:
    with pytest.raises(UsageError, match="retry_member needs tensor_parallel_size 1"):
        Rollouts(HFEngine(tensor_parallel_size=2), retry_member=True)


class AtOnce(Rollouts):
    """A whole population in one call: nothing is told of any member before all are done."""

    calls = 0

    def population(self, *args: Any, **options: Any) -> Iterator[Any]:
        self.calls += 1
        yield from list(super().population(*args, **options))


def test_a_whole_population_in_one_call_needs_neither_another_evaluator_nor_another_module(
    tmp_path: Path,
) -> None:
    rewards = []
    for kind in (Rollouts, AtOnce):
        tuned, records = module(noise=NOISE), Records()
        tuned.rollouts = kind(tuned.rollouts.engine, tuned.rollouts.sampling)
        data = TaskDataModule(Letters(), grading=Grading(workers=0))
        trainer(tmp_path / kind.__name__, 3, [records]).fit(tuned, data)
        rewards.append(torch.stack([record.rewards for record in records.generations]))
    assert isinstance(tuned.rollouts, AtOnce)
    assert tuned.rollouts.calls == 3
    assert torch.equal(*rewards)


def test_a_member_whose_logprobs_are_not_finite_stops_the_run(base: BaseModel, centre: nn.Module) -> None:
    members = Population(2).members(3)
    rollouts, prompts = started(base, Engine(), retry_member=True)
    assert len(list(rollouts.population(centre, members, NOISE, 10.0, prompts))) == 2, "garbage is legitimate"
    words = (
        r"log-probabilities of tokens are not finite for member 0 of generation 3: .*model.sigma \(1e\+39 now"
    )
    with pytest.raises(DivergenceError, match=words):
        list(rollouts.population(centre, members, NOISE, 1e39, prompts, generation=3))
    choices = rollouts.reserve(base, [Prompt("c", "c", choices=(Choice("yes"), Choice("no")))])
    with pytest.raises(DivergenceError, match="for member 0 of generation 0"):
        list(rollouts.population(centre, members, NOISE, 1e39, choices))


def test_a_centre_whose_logprobs_are_not_finite_is_named(base: BaseModel, centre: nn.Module) -> None:
    rollouts, prompts = started(base, Engine())
    next(centre.parameters()).data.fill_(float("nan"))
    rollouts.hold_centre(centre)
    with pytest.raises(
        DivergenceError, match="not finite of the centre, in torch.float32: the learning rate"
    ):
        rollouts.complete(prompts)


def test_listeners_hear_of_the_engine_and_copies_have_none(base: BaseModel) -> None:
    heard: list[Any] = []
    rollouts = Rollouts(Engine(), Sampling(max_tokens=6))
    for _ in "ab":
        rollouts.announcer.listen(heard.append)
    rollouts.reserve(base, PROMPTS)
    rollouts.start(base)
    assert [(event.name, event.seconds is None) for event in heard] == [
        ("starting Engine with tiny", True),
        ("starting Engine with tiny", False),
    ]
    copy.deepcopy(rollouts.announcer).tell(Stage("not heard"))
    rollouts.announcer.leave(heard.append)
    rollouts.announcer.leave(heard.append)
    rollouts.announcer.tell(Stage("not heard"))
    assert len(heard) == 2
