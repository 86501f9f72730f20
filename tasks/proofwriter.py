"""ProofWriter: does a statement follow from facts and rules (arXiv 2012.13048; a task of 2605.30148)."""

import math
from collections.abc import Sequence

from es_lightning.errors import UsageError
from es_lightning.records import Prompt
from es_lightning.tasks.answers.tags import format_score, last_block
from es_lightning.tasks.datasets.rows import RowTask
from es_lightning.tasks.datasets.sources import Row, Source

_SOURCE = Source(
    "tasksource/proofwriter",
    {"train": "train", "val": "validation", "test": "test"},
    sample="proofwriter",
    columns=("theory", "question", "answer", "QDep"),
)
_LABELS = ("True", "False", "Unknown")
_TEXT = (
    "Facts and rules:\n{theory}\n\nStatement: {question}\n\nIs the statement True, False or Unknown? It is "
    "True if it can be proven from the facts and rules, False if its opposite can be proven, and Unknown if "
    "neither can. Reason inside <think> </think> tags, then write one of the three words, and nothing else, "
    "inside <answer> </answer> tags. For example, if neither can be proven you would end with "
    "<answer>Unknown</answer>"
)
_PREFILL = "Let me reason step by step.\n<think>"


class ProofWriter(RowTask):
    """Say whether a statement is true, false or unknown, given a theory of short English sentences.

    Rows are ``{"theory": "Anne is kind. Kind people are nice.", "question": "Anne is nice.", "answer":
    "True"}``. The answer is True, False or Unknown. A row may also have ``QDep``, the depth of the proof. If
    rows name no split, all statements about a theory go to the same split.

    Reward per completion: ``answer + format_reward * format``; higher is better. The prefill is graded as
    part of the reply, so its opening think tag counts. ``answer`` is 1.0 if the last answer block is the
    right word in upper or lower case, else 0.0. ``format`` is 1.0 for a think block followed by an answer
    block, 0.5 for an answer block without a think block before it, 0.1 for a think block alone, else 0.0.

    Args:
        data: where the rows are (see ``es_lightning.tasks.datasets.sources.read_rows``); None reads
            ``tasksource/proofwriter`` from the hub, and ``sample`` reads 20 shipped rows.
        chat: whether the model's chat template is applied; otherwise the model continues the raw text.
        n_train: training problems used; None takes all.
        n_val: the same for validation.
        n_test: the same for the test.
        format_reward: what a perfect format earns; arXiv 2605.30148 uses 0.1.
        depths: proof depths (``QDep``) of the rows that are used; None takes all.

    Raises:
        UsageError: an option is out of range.
    """

    def __init__(
        self,
        data: str | None = None,
        chat: bool = True,
        n_train: int | None = None,
        n_val: int | None = None,
        n_test: int | None = None,
        format_reward: float = 0.0,
        depths: Sequence[int] | None = None,
    ) -> None:
        super().__init__(data, _SOURCE, n_train, n_val, n_test)
        if not 0 <= format_reward < math.inf:
            raise UsageError(f"format_reward is {format_reward}: give 0 or more, such as 0.1.")
        if depths is not None and (not depths or not all(type(d) is int and d >= 0 for d in depths)):
            raise UsageError(f"depths must list whole numbers from 0, such as [3, 5], not {list(depths)}.")
        self.chat = chat
        self.format_reward, self.largest_reward = format_reward, 1.0 + format_reward
        self.depths = None if depths is None else frozenset(depths)

    def key(self, row: Row) -> str:
        """Return the theory and the statement."""
        return f"{row['theory']}\n{row['question']}"

    def family(self, row: Row) -> str:
        """Return the theory: what is learned about it must not help with held-out statements."""
        return str(row["theory"])

    def keep(self, row: Row, split: str) -> bool:
        """Whether the proof depth of a row is one of ``depths``.

        Raises:
            UsageError: ``depths`` is given, but the row does not say its depth.
        """
        if self.depths is None:
            return True
        if "QDep" not in row:
            raise UsageError('depths needs rows with the column "QDep"; leave depths out, or add the column.')
        return row["QDep"] in self.depths

    def prompt(self, row: Row, name: str) -> Prompt:
        """Make the prompt of a row; its reference is the label."""
        label = str(row["answer"]).capitalize()
        if label not in _LABELS:
            raise ValueError(f'"answer" is {row["answer"]!r}, not True, False or Unknown')
        text = _TEXT.format(theory=row["theory"].strip(), question=row["question"].strip())
        return Prompt(
            id=name,
            text=text if self.chat else f"{text}\n",
            reference=label,
            prefill=_PREFILL,
            chat=self.chat,
        )

    def answer(self, prompt: Prompt) -> str:
        """Return the label in its tags, after a think block without reasoning: the data has none to give."""
        return f"</think>\n<answer>{prompt.reference}</answer>"

    def reward(self, prompt: Prompt, completion: str) -> dict[str, float]:
        """Return the ``reward`` and its parts, ``accuracy`` (the answer) and ``format``."""
        text = prompt.prefill + completion
        answer, form = float(_said(text) == prompt.reference.lower()), format_score(text)
        # R = answer + format_reward * format  (arXiv 2605.30148 with 0.1)
        return {"reward": answer + self.format_reward * form, "accuracy": answer, "format": form}

    def given_answer(self, prompt: Prompt, completion: str) -> str | None:
        """Return the word in the last answer block, in lower case; None if there is none."""
        return _said(prompt.prefill + completion)


def _said(text: str) -> str | None:
    """Return the last answer block in lower case; None if it is empty; look-alike letters do not count."""
    said = (last_block(text, "answer") or "").strip()
    return said.lower() if said and said.isascii() else None
