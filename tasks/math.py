r"""School and competition maths, graded by the final answer: GSM8K, MATH, and five test sets.

The set-ups follow arXiv 2509.24372 (MATH levels 3 to 5, the Qwen-Math prompt), and 2601.20861 and 2605.30148
(GSM8K).
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from es_lightning.errors import UsageError
from es_lightning.records import Prompt
from es_lightning.tasks.answers.math_answers import final_answer, last_box
from es_lightning.tasks.answers.math_equal import answers_equal
from es_lightning.tasks.answers.math_library import library_alone, load_library
from es_lightning.tasks.answers.math_value import spelled
from es_lightning.tasks.datasets.rows import RowTask
from es_lightning.tasks.datasets.sources import Row, Source

_BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
_QWEN_MATH = (
    "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
)


@dataclass(frozen=True)
class _Benchmark:
    """A data set, and how its rows are read.

    Args:
        source: where the data set lives.
        question: the column that holds the problem.
        gold: reads the right answer from a row.
        hashes: whether ``####`` marks the answer in a reply.
        worked: reads a solution that ends in the right answer; None where the data set has none.
    """

    source: Source
    question: str
    gold: Callable[[Row], str]
    hashes: bool = False
    worked: Callable[[Row], str] | None = None


def _behind_hashes(row: Row) -> str:
    return str(row["answer"]).rpartition("####")[2].replace(",", "").strip()


def _calculated(row: Row) -> str:
    """Return GSM8K's solution without its calculator's notes ``<<6*12=72>>``, and in the form asked for."""
    steps = re.sub(r"<<[^<>]*>>", "", str(row["answer"]).rpartition("####")[0]).strip()
    return f"{steps}\n{_sentence(_behind_hashes(row))}".strip()


def _sentence(answer: str) -> str:
    return f"The answer is $\\boxed{{{answer}}}$."


def _solution(row: Row) -> str:
    return str(row["solution"]).strip()


def _boxed(row: Row) -> str:
    answer = last_box(row["solution"])
    if answer is None:
        raise ValueError("its solution has no \\boxed{} answer")
    return answer


def _written(row: Row) -> str:
    return str(row["answer"]).strip()


def _whole(row: Row) -> str:
    """Write 142.0 (a data set of floats) as 142, and 033 (the spelling of AIME) as 33."""
    number = float(row["answer"])
    return str(int(number)) if number.is_integer() else str(number)


def _listed(row: Row) -> str:
    answers = row["final_answer"]
    if isinstance(answers, str) or not answers:
        raise ValueError("final_answer must be a list of strings")
    return ", ".join(answer.lstrip("$ ").rstrip("$. ") for answer in answers)


_BENCHMARKS = {
    "gsm8k": _Benchmark(
        Source("openai/gsm8k", {"train": "train", "test": "test"}, "main", "gsm8k"),
        "question",
        _behind_hashes,
        hashes=True,
        worked=_calculated,
    ),
    "math": _Benchmark(
        Source("DigitalLearningGmbH/MATH-lighteval", {"train": "train", "test": "test"}, sample="math"),
        "problem",
        _boxed,
        worked=_solution,
    ),
    "math500": _Benchmark(
        Source("HuggingFaceH4/MATH-500", {"test": "test"}, sample="math500"), "problem", _written
    ),
    "minerva": _Benchmark(
        Source("math-ai/minervamath", {"test": "test"}, sample="minerva"), "question", _written
    ),
    # The hub holds the next three test sets under the name train.
    "olympiadbench": _Benchmark(
        Source("Hothan/OlympiadBench", {"test": "train"}, "OE_TO_maths_en_COMP", "olympiadbench"),
        "question",
        _listed,
    ),
    "amc": _Benchmark(
        Source("AI-MO/aimo-validation-amc", {"test": "train"}, sample="amc"), "problem", _whole
    ),
    "aime24": _Benchmark(
        Source("HuggingFaceH4/aime_2024", {"test": "train"}, sample="aime24"), "problem", _whole
    ),
}
_PROMPTS = ("chat", "qwen_math")
_JUDGES = ("math_verify", "library_alone")


class MathTask(RowTask):
    r"""Maths problems, graded by the final answer; the solution that leads to it is not read.

    Reward per completion: 1.0 if the final answer is right, else 0.0; higher is better. ``boxed`` is 1.0 if
    the answer stood in a ``\boxed{}``, or after ``####`` for GSM8K, else 0.0.
    ``es_lightning.tasks.answers.math_answers.final_answer`` defines which text is the final answer, and
    ``es_lightning.tasks.answers.math_equal`` defines when two answers are equal. In short, the last box
    counts, numbers and lists of numbers are compared exactly, and math-verify compares formulas. If a row of
    OlympiadBench has a tolerance in its column ``error``, numbers may differ by that much.

    Columns that are read: ``gsm8k`` question, answer (with ``#### 72`` at its end); ``math`` problem, level,
    solution (with a ``\boxed{}``); ``math500``, ``amc``, ``aime24`` problem, answer; ``minerva`` question,
    answer; ``olympiadbench`` question, final_answer (a list), error.

    Args:
        dataset: ``gsm8k``, ``math``, or a data set with a test split only: ``math500``, ``minerva``,
            ``olympiadbench``, ``amc``, ``aime24``.
        data: where the rows are. None reads the data set from the hub, and ``sample`` reads a few rows
            written for this project; for the other forms see
            ``es_lightning.tasks.datasets.sources.read_rows``.
        prompt: ``chat`` puts the problem and the instruction through the model's chat template.
            ``qwen_math`` writes out the prompt on which the Qwen-Math models were tuned, for models without
            a template.
        flexible: whether a reply that states no answer is judged by its last formula or number. A reply of
            random numbers is then sometimes right, and a population will learn to exploit that.
        judge: ``math_verify`` applies the rules above: our reading of the final answer, exact numbers, and
            math-verify for formulas, within bounds and behind guards against what it takes wrongly.
            ``library_alone`` takes that library's verdict on the whole reply and nothing else, for comparison
            with results that were graded in this way. It is slower (for some formulas without bound) and
            accepts some wrong answers, such as 5 cm for 5 m.
        levels: difficulties, from 1 to 5, in the train split of ``math``; its other splits hold all levels.
        n_train: training problems used; None takes all.
        n_val: the same for validation.
        n_test: the same for the test.

    Raises:
        UsageError: an option has none of the values above.
    """

    largest_reward = 1.0

    def __init__(
        self,
        dataset: str = "gsm8k",
        data: str | None = None,
        prompt: str = "chat",
        flexible: bool = False,
        judge: str = "math_verify",
        levels: Sequence[int] = (3, 4, 5),
        n_train: int | None = None,
        n_val: int | None = None,
        n_test: int | None = None,
    ) -> None:
        if dataset not in _BENCHMARKS:
            raise UsageError(f"dataset must be one of {', '.join(_BENCHMARKS)}, not {dataset!r}.")
        if prompt not in _PROMPTS:
            raise UsageError(f"prompt must be chat or qwen_math, not {prompt!r}.")
        if judge not in _JUDGES:
            gone = (
                " exact, the rules of version 0.1, is gone; a run that began with it cannot go on."
                if judge == "exact"
                else ""
            )
            raise UsageError(
                f"judge must be math_verify (the default) or library_alone, not {judge!r}.{gone}"
            )
        if not levels or not set(levels) <= set(range(1, 6)):
            raise UsageError(f"levels must list some of 1 to 5, such as [3, 4, 5], not {list(levels)}.")
        super().__init__(data, _BENCHMARKS[dataset].source, n_train, n_val, n_test)
        self.dataset, self.style, self.levels = dataset, prompt, tuple(levels)
        self.flexible, self.judge = flexible, judge
        self._worked: dict[str, str] = {}  # by the prompt's text

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the worked solutions as well: no grading process asks for them."""
        return {**super().__getstate__(), "_worked": {}}

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.dataset

    def prepare(self) -> None:
        """Load math-verify, so that no worker has to."""
        load_library()

    def key(self, row: Row) -> str:
        """The problem's text."""
        return str(row[_BENCHMARKS[self.dataset].question])

    def keep(self, row: Row, split: str) -> bool:
        """Whether a row is used: all are, except training problems of ``math`` of other ``levels``."""
        if self.dataset != "math" or split != "train":
            return True
        return str(row["level"]).removeprefix("Level ") in map(str, self.levels)

    def prompt(self, row: Row, name: str) -> Prompt:
        """Make the prompt of a row; its reference holds ``answer`` and ``tolerance``, a number or None."""
        benchmark = _BENCHMARKS[self.dataset]
        question = str(row[benchmark.question]).strip()
        raw = self.style == "qwen_math"
        text = _QWEN_MATH.format(system=_BOXED, question=question) if raw else f"{question}\n\n{_BOXED}"
        if benchmark.worked is not None:
            self._worked[text] = benchmark.worked(row)
        return Prompt(
            id=name,
            text=text,
            reference={"answer": benchmark.gold(row), "tolerance": _tolerance(row.get("error"))},
            chat=not raw,
        )

    def answer(self, prompt: Prompt) -> str:
        r"""Return the worked solution of ``gsm8k`` or ``math``, else a sentence with the answer in a box.

        GSM8K's ends with that sentence in place of its ``####``, since the prompt asks for a box.
        """
        return self._worked.get(prompt.text) or _sentence(prompt.reference["answer"])

    def reward(self, prompt: Prompt, completion: str) -> dict[str, float]:
        """Return the ``reward`` of 0 or 1, ``accuracy``, which is the same number, and ``boxed``."""
        answer = final_answer(completion, _BENCHMARKS[self.dataset].hashes, self.flexible)
        gold, tolerance = prompt.reference["answer"], prompt.reference["tolerance"]
        if self.judge == "library_alone":
            right = float(library_alone(gold, completion))
        else:
            right = float(answer.text is not None and answers_equal(gold, answer.text, tolerance))
        return {"reward": right, "accuracy": right, "boxed": float(answer.marked)}

    def given_answer(self, prompt: Prompt, completion: str) -> str | None:
        r"""Return the final answer in one spelling: a plain number as a fraction, else cleaned LaTeX.

        ``0.50``, ``1/2`` and ``\frac{1}{2}`` are one answer. Formulas that only algebra shows to be equal are
        several.
        """
        text = final_answer(completion, _BENCHMARKS[self.dataset].hashes, self.flexible).text
        return None if text is None else spelled(text)


def _tolerance(error: Any) -> float | None:
    """Return the smallest number in OlympiadBench's column ``error``, such as ``1e-1``; None without one."""
    parts = str(error).split(",") if error else []
    try:
        numbers = [float(part) for part in parts if part.strip()]
    except ValueError:
        return None
    return min(numbers) if numbers and all(0 <= n < math.inf for n in numbers) else None
