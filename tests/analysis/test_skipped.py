"""The reason that is given for a generation without an update."""

import re

import pytest
import torch

from es_lightning.analysis.skipped import why_skipped
from es_lightning.records import Completion, Evaluation, Generation, Member, Prompt

PROMPTS = (Prompt("a", "a"), Prompt("b", "b"))


@pytest.mark.parametrize(
    ("said", "rewards", "cut", "words"),
    [
        (
            ["ab", "cd", "ef"],
            [0.0, 0.0],
            1.0,
            "cut off at 40 tokens, perhaps before the answer: raise model.samp",
        ),
        (
            ["ab", "ab", "ab"],
            [0.0, 1.0],
            0.2,
            r"word for word: .* Raise model.sigma \(0.01 now\), .* to 0.02",
        ),
        (["ab", "ab", "ab"], [0.0, 0.0], 1.0, "word for word: the noise is too small"),  # cut off as well
        (
            ["ab", "cd", "ef"],
            [0.0, 0.0],
            0.2,
            "too hard for the base model or solved already, or the reward is",
        ),
        (
            ["ab", "cd", "ef"],
            [0.0, 1.0],
            0.2,
            "earn differently on different prompts, but not from one another",
        ),
        (["ab"], [0.0, 0.0], 0.2, "too hard for the base model"),  # one member on this rank proves nothing
    ],
)
def test_the_likely_cause_is_named(said: list[str], rewards: list[float], cut: float, words: str) -> None:
    evaluations = {
        n: Evaluation(
            PROMPTS, tuple(Completion(text, (1,), "stop") for text in texts), ({"reward": 1.0},) * 2
        )
        for n, texts in enumerate(said)
    }
    record = Generation(
        index=4,
        members=tuple(Member(n, n) for n in range(3)),
        prompts=PROMPTS,
        rewards=torch.tensor([rewards] * 3, dtype=torch.float64),
        weights=torch.zeros(3),
        sigma=0.01,
        lr=0.01,
        skipped=True,
        update_norm=0.0,
        drift=0.0,
        scores={"completion_truncated": cut},
        tokens=6,
        seconds={},
        lane_seconds=(1.0,),
        evaluations=evaluations,
    )
    why = why_skipped(record, max_tokens=40)
    assert why.startswith(
        "Generation 4 is skipped, the centre stays as it is: all 3 members earned the same, "
    )
    assert re.search(words, why), why
