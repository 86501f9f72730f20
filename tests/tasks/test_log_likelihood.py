"""The log-likelihood of right answers: as transformers computes it, in training alone, as in MeZO."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from es_lightning.algorithm.noise import GaussianNoise
from es_lightning.algorithm.shaping import none
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import UsageError
from es_lightning.evaluation import Rollouts
from es_lightning.grading.scorer import Grading, Scorer
from es_lightning.journal.identity import changed
from es_lightning.models import BaseModel
from es_lightning.models.base_model import resolve
from es_lightning.records import Choice, Completion, Prompt
from es_lightning.rollout import HFEngine, Sampling, complete, encode
from es_lightning.task import Reward, Task
from es_lightning.tasks import (
    Countdown,
    LogLikelihood,
    MathTask,
    Mixture,
    MultipleChoice,
    PythonRewards,
    ReasoningGym,
    Sums,
)
from tests.helpers.fits import fit


class Asked(Task):
    """One problem per split, as a test wants it."""

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt

    def problems(self, split: str) -> list[Prompt]:
        return [replace(self.prompt, id=f"asked/{split}")]

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        return float(completion.strip() == prompt.reference)


class Batched(Sums):
    """Sums that are graded in batches; notes how."""

    batched = True

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Reward | Exception]:
        return [{"reward": float(len(prompts))} for _ in prompts]


def value_of(reward: Reward) -> float:
    return reward["reward"] if isinstance(reward, Mapping) else reward


# As transformers computes it -----------------------------------------------------------------------

CHAT = Prompt("", "Say yes.", "yes, I do")
FORMS = {
    "chat": (CHAT, "yes, I do"),
    "system": (replace(CHAT, system="Be brief."), "yes, I do"),
    "prefill": (replace(CHAT, prefill="I say:"), "yes, I do"),
    "raw": (replace(CHAT, chat=False), " yes, I do"),
    "raw line": (replace(CHAT, text="Say yes.\n", chat=False), "yes, I do"),
    "raw prefill": (replace(CHAT, prefill="Well,", chat=False), "yes, I do"),
    "number": (replace(CHAT, reference=-7), "-7"),
}


@pytest.fixture(scope="module")
def folder() -> Path:
    return resolve("tiny")


@pytest.fixture(scope="module")
def exact(folder: Path) -> PreTrainedModel:
    """The tiny model in float64."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).requires_grad_(False)


@pytest.fixture(scope="module")
def engine(folder: Path, exact: PreTrainedModel) -> HFEngine:
    """An engine in float32 that holds the same weights."""
    started = HFEngine(dtype="float32", device="cpu")
    started.start(folder, 64)
    started.load_weights((name, parameter.float()) for name, parameter in exact.named_parameters())
    return started


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return BaseModel("tiny").tokenizer


def text_before(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> str:
    """What the model continues, written by transformers."""
    if not prompt.chat:
        return prompt.text + prompt.prefill
    system = [] if prompt.system is None else [{"role": "system", "content": prompt.system}]
    messages = [*system, {"role": "user", "content": prompt.text}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return str(text) + prompt.prefill


@torch.no_grad()
def expected(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, answer: str
) -> list[float]:
    """Log-probability in float64 of each token of an answer, with the end of the reply in a chat."""
    before = text_before(prompt, tokenizer)
    whole = before + answer + (str(tokenizer.eos_token) if prompt.chat else "")
    given, ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, whole))
    logprobs = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    values = logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
    return values[len(given) - 1 :]  # a token per byte, so none reaches over the boundary


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("per_token", [True, False])
def test_it_is_what_transformers_computes_in_float64(
    form: str, per_token: bool, engine: HFEngine, exact: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    asked, answer = FORMS[form]
    task = LogLikelihood(Asked(asked), per_token=per_token)
    [prompt] = encode(task.problems("train"), tokenizer)
    [completion] = complete(engine, [prompt], Sampling())
    values = expected(exact, tokenizer, asked, answer)
    assert completion.text == answer
    assert len(completion.token_ids) == len(values) == len(answer) + asked.chat
    mean = sum(values) / len(values) if per_token else sum(values)
    assert value_of(task.choice_reward(prompt, completion.choice_logprobs)) == pytest.approx(mean, rel=1e-5)


def test_an_answer_stands_where_the_chat_template_writes_a_reply() -> None:
    """The ids are those of a whole conversation, as transformers writes it with the model's template."""
    tokenizer = BaseModel("embedded").tokenizer
    tasks = (Sums(), MathTask("gsm8k", "sample"), MathTask("math", "sample"), MultipleChoice(data="sample"))
    for task in tasks:
        for prompt in encode(LogLikelihood(task).problems("train")[:4], tokenizer):
            [choice] = prompt.choices
            user, reply = (
                {"role": "user", "content": prompt.text},
                {"role": "assistant", "content": choice.text},
            )
            whole = tokenizer.apply_chat_template([user, reply], return_dict=False)
            assert list(choice.token_ids) == whole[: len(choice.token_ids)]
            assert tokenizer.decode(whole[len(choice.token_ids) :]) == "\n"
            assert choice.scored == len(whole) - 1 - len(prompt.token_ids)


# Training alone --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task",
    [
        Sums(),
        Countdown(4, 3, 2),
        MathTask("gsm8k", "sample"),
        MultipleChoice("boolq", "sample", "loglikelihood"),
    ],
    ids=lambda task: task.name,
)
def test_only_training_changes(task: Task) -> None:
    changed = LogLikelihood(task)
    for split in ("val", "test"):
        assert changed.problems(split) == task.problems(split)
    pairs = list(zip(changed.problems("train"), task.problems("train"), strict=True))
    assert all(replace(new, choices=()) == replace(old, choices=()) for new, old in pairs)
    assert all([choice.text for choice in new.choices] == [task.answer(old)] for new, old in pairs)
    assert all(changed.answer(prompt) == task.answer(old) for prompt, old in pairs)


def test_a_raw_answer_is_right_with_its_space() -> None:
    task = Sums(chat=False)
    problems = LogLikelihood(task).problems("train")
    assert all(prompt.choices[0].text == f" {prompt.reference}" for prompt in problems)
    assert all(value_of(task.reward(prompt, prompt.choices[0].text)) == 1 for prompt in problems)


def test_a_right_choice_is_scored_with_what_stands_before_it_and_has_no_end() -> None:
    [choice] = (
        LogLikelihood(MultipleChoice("winogrande", "sample", "loglikelihood")).problems("train")[0].choices
    )
    assert choice == Choice(" Paula had forgotten hers at home.")


def test_worked_solutions_are_trained_on_where_the_data_has_them() -> None:
    [of_gsm8k, of_math] = [
        LogLikelihood(MathTask(name, "sample")).problems("train")[0].choices[0].text
        for name in ("gsm8k", "math")
    ]
    assert of_gsm8k == (
        "The baker has 6 * 12 = 72 rolls.\nAfter the sale 72 - 50 = 22 rolls are left.\n"
        "The answer is $\\boxed{22}$."
    )
    assert of_math == "We have $0.375=\\frac{375}{1000}=\\boxed{\\frac{3}{8}}$."


@pytest.mark.parametrize(
    ("reference", "answer"), [("a", "a"), (3, "3"), (0.5, "0.5"), (True, None), ([1], None)]
)
def test_a_reference_is_an_answer_if_it_is_a_text_or_a_number(reference: Any, answer: str | None) -> None:
    assert Asked(Prompt("p", "?", reference)).answer(Prompt("p", "?", reference)) == answer


def test_rows_of_ones_own_name_the_column(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "gold": 5, "answer": "no"}\n')
    task = PythonRewards(str(tmp_path / "rows.jsonl"), [lambda prompt, completion: 0.0], answer_column="gold")
    row = next(prompt for split in ("train", "val", "test") for prompt in task.problems(split))
    assert task.answer(row) == "5"
    task.answer_column = "missing"
    assert task.answer(row) is None


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Asked(Prompt("", "?")), "task Asked does not know the right answer to problem asked/train"),
        (Asked(Prompt("", "?", "")), "does not know the right answer to problem asked/train"),
        (Countdown(3, 1, 1, numbers=[6]), "does not know the right answer to problem countdown/train/0"),
        (
            ReasoningGym("graph_color", 3, 1, 1),
            "does not know the right answer to problem graph_color/train/0",
        ),
        (Asked(Prompt("", "?", choices=(Choice("a"),))), "problem asked/train of task Asked has one choice"),
        (LogLikelihood(Sums()), "of task Sums_log_likelihood has one choice"),
    ],
    ids=["no reference", "empty", "unsolved", "none in the library", "one choice", "twice"],
)
def test_a_task_without_right_answers_is_refused_before_an_engine_starts(task: Task, words: str) -> None:
    data = TaskDataModule(task, objective="log_likelihood")
    with pytest.raises(UsageError, match=words):
        data.splits_for("fit")


def test_an_objective_is_one_of_two() -> None:
    with pytest.raises(UsageError, match=r"data\.objective is 'nats': give reward or log_likelihood"):
        TaskDataModule(Sums(), objective="nats")  # type: ignore[arg-type]


# Grading -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "task", "right"), [(1, Sums(), 1.0), (0, Batched(), 3.0)])
def test_likelihoods_and_replies_are_graded_as_ever(
    workers: int, task: Task, right: float, tokenizer: PreTrainedTokenizerBase
) -> None:
    """In another process too, which has to know how many tokens an answer has; and in batches."""
    both = LogLikelihood(task)
    trained, held_out = encode(both.problems("train")[:2], tokenizer), both.problems("val")[:3]
    assert [prompt.choices[0].scored for prompt in trained] == [3, 3]
    scorer = Scorer(both, Grading(workers=workers))
    answers = [Completion("26", (1, 2, 3), "choice", (value,)) for value in (-6.0, -3.0)]
    texts = [Completion(f"It is {prompt.reference}.", (1,), "stop") for prompt in held_out]
    try:
        assert [row["reward"] for row in scorer.round(2).add(trained, answers).scores()] == [-2.0, -1.0]
        assert [row["reward"] for row in scorer.round(3).add(held_out, texts).scores()] == [right] * 3
    finally:
        scorer.close()


def test_a_prompt_that_is_not_encoded_has_no_mean() -> None:
    task = LogLikelihood(Sums())
    with pytest.raises(ValueError, match="is not encoded yet"):
        task.choice_reward(task.problems("train")[0], [-1.0])


def test_a_failure_earns_less_than_any_answer() -> None:
    assert LogLikelihood(Sums()).failure_reward == -100


def test_the_tasks_of_a_mixture_keep_their_names_and_weights(tokenizer: PreTrainedTokenizerBase) -> None:
    task = LogLikelihood(Mixture([Sums(3), Sums(4)], [1, 3]))
    assert task.group_weights() == {"Sums": 1, "Sums-2": 3}
    last = encode(task.problems("train"), tokenizer)[-1]
    value = -4.0 / last.choices[0].scored
    assert task.choice_reward(last, [-4.0]) == {"reward": value, "Sums-2/reward": value}
    within = Mixture([LogLikelihood(Sums(3)), Sums(4)])
    [first] = encode(within.problems("train")[:1], tokenizer)
    value = -4.0 / first.choices[0].scored
    assert within.choice_reward(first, [-4.0]) == {"reward": value, "Sums_log_likelihood/reward": value}


def test_an_answer_that_is_too_long_is_refused_or_dropped(tokenizer: PreTrainedTokenizerBase) -> None:
    base, rollouts = BaseModel("tiny"), Rollouts(HFEngine(), Sampling(max_tokens=8))
    texts = ["short", "long " * 300]
    problems = [LogLikelihood(Asked(Prompt("", "?", text))).problems("train")[0] for text in texts]
    words = (
        r"with its longest answer that is \d+, but the model ends at 1024: take a model for longer texts, or "
    )
    with pytest.raises(UsageError, match=words + "leave such problems out with data.drop_long_prompts"):
        rollouts.reserve(base, problems)
    kept = rollouts.reserve(base, problems, drop_long=True)
    assert [prompt.choices[0].text for prompt in kept] == ["short"]


# A run ---------------------------------------------------------------------------------------------


def test_a_run_rewards_likelihood_validates_replies_and_remembers_its_objective(tmp_path: Path) -> None:
    data = {"objective": "log_likelihood", "prompts_per_generation": 4, "val_prompts": 3}
    tuned, records = fit(Sums(9), tmp_path, steps=2, data=data)
    for record in records.generations:
        assert (record.rewards < 0).all()
        assert set(record.scores) >= {"reward", "completion_tokens"}
        assert all(c.finish_reason == "choice" for e in record.evaluations.values() for c in e.completions)
    assert {"val/reward", "val/accuracy"} <= set(tuned.trainer.callback_metrics)
    header = json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[0])
    assert (header["identity"]["data.objective"], header["task"]) == ("log_likelihood", "Sums")
    assert header["identity"]["data.task.largest"] == 9
    older = {"identity": {key: value for key, value in header["identity"].items() if "objective" not in key}}
    assert changed(older, header) == ["data.objective was reward in the run and is log_likelihood now"]
    usual = {"identity": older["identity"] | {"data.objective": "reward", "data.task.problems": "other"}}
    assert changed(usual, header) == ["data.objective was reward in the run and is log_likelihood now"]


@torch.no_grad()
def test_two_opposite_members_without_shaping_make_the_step_of_mezo(
    tmp_path: Path, exact: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """theta - lr_MeZO * (L(theta + sigma z) - L(theta - sigma z)) / (2 sigma) * z, in float64.

    L is the mean over the problems of the cross-entropy per token (arXiv 2305.17333, algorithm 1).
    """
    sigma, lr, task = 0.01, 0.5, Sums(3)
    tuned, records = fit(
        task,
        tmp_path,
        steps=1,
        data={"objective": "log_likelihood"},
        **{"population": 2, "antithetic": True, "shaping": none, "sigma": sigma},
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=lr),
    )
    [plus, minus] = records.generations[0].members
    assert (plus.seed, plus.sign, minus.sign) == (minus.seed, 1, -1)
    z = {name: GaussianNoise().sample(plus.seed, name, p.shape) for name, p in exact.named_parameters()}
    theta = {name: parameter.clone() for name, parameter in exact.named_parameters()}

    def loss(scale: float) -> float:
        for name, parameter in exact.named_parameters():
            parameter.copy_(theta[name] + scale * z[name])
        rows = [expected(exact, tokenizer, p, str(p.reference)) for p in task.problems("train")]
        return -sum(sum(row) / len(row) for row in rows) / len(rows)

    losses = loss(sigma), loss(-sigma)
    loss(0.0)
    assert records.generations[0].rewards.mean(dim=1).tolist() == pytest.approx(
        [-x for x in losses], rel=1e-5
    )
    lr_of_mezo = lr * sigma
    step = -lr_of_mezo * (losses[0] - losses[1]) / (2 * sigma)
    for name, parameter in tuned.centre.named_parameters():
        moved = parameter.double() - theta[name]
        assert torch.allclose(moved, step * z[name].double(), rtol=5e-3, atol=2e-7), name
