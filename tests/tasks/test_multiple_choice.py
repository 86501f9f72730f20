"""Multiple choice: every benchmark's rows, what is asked and scored, and what it is worth."""

import json
import math
import pickle
import random
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from es_lightning.errors import UsageError
from es_lightning.records import Choice, Prompt
from es_lightning.tasks.datasets.choice_formats import FORMATS
from es_lightning.tasks.multiple_choice import MultipleChoice

SPLITS = ("train", "val", "test")
DATASETS = ["arc_challenge", "winogrande", "hellaswag", "piqa", "mmlu_pro", "boolq"]
SAMPLES = Path(__file__).parents[2] / "tasks" / "datasets" / "samples"
COLUMNS = {
    "arc_challenge": {"id", "question", "choices", "answerKey"},
    "winogrande": {"sentence", "option1", "option2", "answer"},
    "hellaswag": {
        *("ind", "activity_label", "ctx_a", "ctx_b", "ctx", "endings", "source_id", "split_type", "label"),
    },
    "piqa": {"goal", "sol1", "sol2", "label"},
    "mmlu_pro": {
        "question_id",
        "question",
        "options",
        "answer",
        "answer_index",
        "cot_content",
        "category",
        "src",
    },
    "boolq": {"question", "answer", "passage"},
}
SCORED = {
    "arc_challenge": (
        "Question: Why does a metal spoon in hot soup soon feel hot at its dry end?\nAnswer:",
        [
            Choice(" It makes heat of its own."),
            Choice(" Heat is conducted along it."),
            Choice(" Steam pushes heat into it."),
            Choice(" Light from the soup warms it."),
        ],
    ),
    "winogrande": (
        "Nora lent her umbrella to Paula because",
        [
            Choice(" had forgotten hers at home.", before=" Nora"),
            Choice(" had forgotten hers at home.", before=" Paula"),
        ],
    ),
    "hellaswag": (
        "Making tea: A woman fills a kettle with water and puts it on the stove. She",
        [
            Choice(" waits until it boils and pours the water over the leaves."),
            Choice(" throws the stove out of the window."),
            Choice(" paints the kettle while it swims in a lake."),
            Choice(" reads the water aloud to the cups."),
        ],
    ),
    "piqa": (
        "Question: To open a jar with a tight lid,\nAnswer:",
        [
            Choice(" hold the lid under hot water for a minute, then twist."),
            Choice(" hold the lid under a lamp for a minute, then whisper."),
        ],
    ),
    "mmlu_pro": (
        "What is the derivative of x^3 at x = 2?\nA. 6\nB. 8\nC. 10\nD. 12\nE. 14\nF. 16\nG. 18\nH. 20\n"
        "I. 24\nJ. 4\nAnswer:",
        [Choice(f" {letter}") for letter in "ABCDEFGHIJ"],
    ),
    "boolq": (
        "The old harbour of Marlow was closed to ships in 1954, when sand had filled it. Today it is a "
        "park.\nQuestion: is the old harbour of marlow still used by ships?\nAnswer:",
        [Choice(" yes"), Choice(" no")],
    ),
}


def sample(dataset: str, **options) -> MultipleChoice:
    return MultipleChoice(dataset, data="sample", **options)


def scored(dataset: str = "arc_challenge", **options) -> MultipleChoice:
    return sample(dataset, mode="loglikelihood", **options)


def everything(task: MultipleChoice) -> list[Prompt]:
    return [prompt for split in SPLITS for prompt in task.problems(split)]


def write(folder: Path, *rows) -> str:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def read(folder: Path, *rows, dataset: str = "own", **options) -> list[Prompt]:
    """The problems of rows, which all go to the test split."""
    rows = tuple({**row, "split": "test"} for row in rows)
    return MultipleChoice(dataset, write(folder, *rows), **options).problems("test")


# The shipped rows


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_sample_has_the_columns_of_the_data_set_and_three_splits(dataset):
    rows = [json.loads(line) for line in (SAMPLES / f"{dataset}.jsonl").read_text().splitlines()]
    assert all(set(row) == {*COLUMNS[dataset], "split"} for row in rows)
    task = sample(dataset)
    assert [len(task.problems(split)) for split in SPLITS] == [8, 4, 8]


@pytest.mark.parametrize("dataset", DATASETS)
def test_no_letter_is_right_much_more_often_than_others(dataset):
    letters = [prompt.reference["letter"] for prompt in everything(sample(dataset))]
    assert all(letters.count(letter) <= 10 for letter in letters)
    assert len(set(letters)) >= 2


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("mode", ["generate", "loglikelihood"])
def test_problems_and_their_ids_are_in_one_split_alone(dataset, mode):
    task = sample(dataset, mode=mode)
    prompts = everything(task)
    keys = [tuple([p.text, *sorted(p.reference["options"])]) for p in prompts]
    assert len(set(keys)) == len({p.id for p in prompts}) == len(prompts) == 20
    assert prompts[0].id == f"{dataset}/train/0"
    assert task.name == dataset


# What is asked


@pytest.mark.parametrize("dataset", DATASETS)
def test_right_letters_earn_1_and_others_0(dataset):
    task = sample(dataset)
    for prompt in everything(task):
        assert (prompt.chat, prompt.choices) == (True, ())
        for letter in prompt.reference["letters"]:
            right = float(letter == prompt.reference["letter"])
            assert task.reward(prompt, f"So the answer is ({letter}).") == {
                "reward": right,
                "accuracy": right,
            }


def test_the_question_shows_all_options_and_the_form_of_the_answer():
    prompt = sample("winogrande").problems("train")[0]
    assert prompt.text == (
        "Nora lent her umbrella to Paula because _ had forgotten hers at home.\n\nWhich option fits the "
        'blank (_)?\n\nA. Nora\nB. Paula\n\nThink briefly, then end your reply with the sentence "The '
        'answer is (X).", where X is the letter of the right option.'
    )
    assert prompt.reference == {"letter": "B", "letters": "AB", "options": ["Nora", "Paula"]}


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_question_lists_its_options(dataset):
    for prompt in everything(sample(dataset)):
        for letter, option in zip("ABCDEFGHIJ", prompt.reference["options"], strict=False):
            assert f"\n{letter}. {option}\n" in prompt.text


def test_raw_text_ends_its_line():
    chat, raw = (sample("piqa", chat=chat).problems("val")[0] for chat in (True, False))
    assert (raw.text, raw.chat) == (f"{chat.text}\n", False)


# What is scored


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_scored_texts(dataset):
    prompt = scored(dataset).problems("train")[0]
    assert (prompt.text, list(prompt.choices)) == SCORED[dataset]
    assert not prompt.chat


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_choice_has_something_to_score(dataset):
    for prompt in everything(scored(dataset)):
        assert len(prompt.choices) == len(prompt.reference["options"])
        assert all(choice.text.strip() for choice in prompt.choices)
        assert prompt.text == prompt.text.rstrip()


@pytest.mark.parametrize("dataset", DATASETS)
def test_in_a_chat_a_reply_does_not_begin_with_a_space(dataset):
    raw, chat = scored(dataset).problems("test")[0], scored(dataset, chat=True).problems("test")[0]
    assert chat.chat
    assert not any((choice.before + choice.text).startswith(" ") for choice in chat.choices)
    for before, after in zip(raw.choices, chat.choices, strict=True):
        assert (before.before + before.text).strip() == after.before + after.text


def test_hellaswag_without_its_wikihow_markup():
    texts = [prompt.text for prompt in everything(scored("hellaswag"))]
    cleaned = "How to bake potatoes. Wash the potatoes well. Scrub them under cold water and dry them."
    assert f"Baking and cooking: {cleaned}" in texts


def test_hellaswag_without_the_two_halves_of_its_context(tmp_path):
    row = {"activity_label": "Tea", "ctx": "He sits. he", "endings": ["drinks.", "flies."], "label": "0"}
    assert read(tmp_path, row, dataset="hellaswag", mode="loglikelihood")[0].text == "Tea: He sits. he"


@pytest.mark.parametrize(
    ("sentence", "text", "choices"),
    [
        ("Ann saw _", "Ann saw", [Choice(" Bob"), Choice(" Cy")]),
        ("_ saw Ann.", "\n", [Choice(" saw Ann.", before="Bob"), Choice(" saw Ann.", before="Cy")]),
        ("It was _'s hat. ", "It was", [Choice("'s hat.", before=" Bob"), Choice("'s hat.", before=" Cy")]),
        ('"_ is late"', '"', [Choice(' is late"', before="Bob"), Choice(' is late"', before="Cy")]),
        ("anti-_ now.", "anti-", [Choice(" now.", before="Bob"), Choice(" now.", before="Cy")]),
        ("(_) sat", "(", [Choice(") sat", before="Bob"), Choice(") sat", before="Cy")]),
    ],
)
def test_winogrande_blanks_at_the_edges(tmp_path, sentence, text, choices):
    row = {"sentence": sentence, "option1": "Bob", "option2": "Cy", "answer": "2"}
    prompt = read(tmp_path, row, dataset="winogrande", mode="loglikelihood")[0]
    assert (prompt.text, list(prompt.choices), prompt.reference["letter"]) == (text, choices, "B")


@pytest.mark.parametrize(
    ("sentence", "whole"),
    [
        ('He said "_ is late" to Bo about Al.', 'He said "Al is late" to Bo about Al.'),
        ("He is anti-_ since then.", "He is anti-Al since then."),
        ("Jeff liked _'s painting.", "Jeff liked Al's painting."),
        ("We threw away the _.", "We threw away the Al."),
        ("(_, of all people)", "(Al, of all people)"),
        ("Bo saw\n_ there", "Bo saw Al there"),
        ("_ left", "\nAl left"),
        ("pro/_-ish", "pro/Al-ish"),
        ("It is _", "It is Al"),
    ],
)
def test_a_blank_is_filled_where_it_stands(tmp_path, sentence, whole):
    row = {"sentence": sentence, "option1": "Al", "option2": "Cy", "answer": "1"}
    prompt = read(tmp_path, row, dataset="winogrande", mode="loglikelihood")[0]
    assert prompt.text + prompt.choices[0].before + prompt.choices[0].text == whole


HEADER = "[header] How to tea [title] Boil water."


@pytest.mark.parametrize(
    ("context", "ending", "given", "scored_text"),
    [
        (("He sits.", "he"), "drinks.", "Tea: He sits. He", " drinks."),
        ((HEADER, ""), "[step] Use a pot.", "Tea: How to tea. Boil water.", "  Use a pot."),
        ((HEADER, ""), "[title] Use a pot. [step] Now.", "Tea: How to tea. Boil water.", "  Use a pot. Now."),
        ((f"{HEADER} [step]", ""), "Use a pot.", "Tea: How to tea. Boil water.", "  Use a pot."),
        (("He [x] sits.", ""), "and [substeps] stands.", "Tea: He sits.", " and stands."),
        (("He  sits.", ""), "Up   he goes.", "Tea: He sits.", " Up  he goes."),
    ],
)
def test_hellaswag_is_scored_as_published(tmp_path, context, ending, given, scored_text):
    """The expected texts were made by preprocess() of lm-evaluation-harness, whose contexts end in a word."""
    row = {"activity_label": "Tea", "ctx_a": context[0], "ctx_b": context[1], "label": "0"}
    row["endings"] = [ending, "Or not."]
    prompt = read(tmp_path, row, dataset="hellaswag", mode="loglikelihood")[0]
    assert (prompt.text, prompt.choices[0].text) == (given, scored_text)
    asked = read(tmp_path, row, dataset="hellaswag")[0]
    assert asked.reference["options"][0] == scored_text.strip()


def test_twins_are_different_problems_and_an_order_of_options_is_none(tmp_path):
    twins = [
        {
            "sentence": f"The hat is not in the box as the _ is too {size}.",
            "option1": a,
            "option2": b,
            "answer": "1",
        }
        for size, a, b in [("large", "hat", "box"), ("small", "box", "hat"), ("large", "hat", "box")]
    ]
    assert len(read(tmp_path, *twins, dataset="winogrande")) == 2
    orders = [
        {"question": "1 + 1?", "options": options, "answer": "2"} for options in (["2", "3"], ["3", "2"])
    ]
    assert len(read(tmp_path, *orders)) == 1


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_scored_text_is_worth_1_if_it_is_the_right_choice(dataset):
    task = scored(dataset)
    for prompt in everything(task):
        gold = prompt.reference["letters"].index(prompt.reference["letter"])
        for i, choice in enumerate(prompt.choices):
            right = float(i == gold)
            numbers = task.reward(prompt, choice.before + choice.text)
            assert numbers == {"reward": right, "accuracy": right}
        assert task.reward(prompt, "")["reward"] == 0


# What log-likelihoods are worth


def problem(*texts: str, letter: str = "A") -> Prompt:
    letters = "ABCDEFGHIJ"[: len(texts)]
    reference = {"letter": letter, "letters": letters, "options": list(texts)}
    return Prompt("x", "?", reference, chat=False, choices=tuple(Choice(f" {text}") for text in texts))


def expected(prompt: Prompt, logprobs: list[float], per_char: bool) -> dict[str, float]:
    """The numbers in float64, from scipy."""
    sizes = np.array([len(text.encode()) for text in prompt.reference["options"]], dtype=np.float64)
    sums = np.array(logprobs, dtype=np.float64)
    gold = prompt.reference["letters"].index(prompt.reference["letter"])
    values = sums / sizes if per_char else sums
    return {
        "reward": max(float(log_softmax(values)[gold]), -100.0),
        "accuracy": float(np.argmax(sums) == gold),
        "accuracy_per_char": float(np.argmax(sums / sizes) == gold),
    }


@pytest.mark.parametrize("normalise", ["none", "chars"])
def test_choices_against_scipy(normalise):
    rng = random.Random(1)
    plain, dense = scored(normalise=normalise), scored(normalise=normalise, dense=True)
    for _ in range(300):
        texts = ["\u00e9x" * rng.randint(1, 40) + str(i) for i in range(rng.randint(2, 10))]
        prompt = problem(*texts, letter="ABCDEFGHIJ"[rng.randrange(len(texts))])
        logprobs = [-math.exp(rng.uniform(-5, 7)) for _ in texts]
        numbers = expected(prompt, logprobs, normalise == "chars")
        assert dense.choice_reward(prompt, logprobs) == pytest.approx(numbers, rel=1e-12, abs=1e-12)
        chosen = numbers["accuracy_per_char" if normalise == "chars" else "accuracy"]
        assert plain.choice_reward(prompt, logprobs) == {**numbers, "reward": chosen}


def test_what_is_usual_for_each_data_set():
    usual = {name: fmt.normalise for name, fmt in FORMATS.items()}
    by_chars = {"arc_challenge", "hellaswag", "piqa", "own"}
    assert usual == {name: "chars" if name in by_chars else "none" for name in [*DATASETS, "own"]}
    prompt = problem("a long answer", "no")
    assert scored("arc_challenge").choice_reward(prompt, [-5, -3])["reward"] == 1
    assert scored("boolq").choice_reward(prompt, [-5, -3])["reward"] == 0


def test_of_equal_choices_the_first_is_the_largest():
    task = scored(normalise="none")
    assert task.choice_reward(problem("x", "y", letter="A"), [-1.0, -1.0])["reward"] == 1
    assert task.choice_reward(problem("x", "y", letter="B"), [-1.0, -1.0])["reward"] == 0


@pytest.mark.parametrize("normalise", ["none", "chars"])
@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
def test_what_is_no_number_is_the_least_likely(normalise, bad):
    plain, dense = scored(normalise=normalise), scored(normalise=normalise, dense=True)
    prompt = problem("x", "y")
    right = {"reward": 1.0, "accuracy": 1.0, "accuracy_per_char": 1.0}
    wrong = dict.fromkeys(right, 0.0)
    assert plain.choice_reward(prompt, [-1e9, bad]) == right
    assert plain.choice_reward(prompt, [bad, -1e9]) == wrong
    assert plain.choice_reward(prompt, [bad, bad]) == wrong
    assert dense.choice_reward(prompt, [-1e9, bad]) == {**right, "reward": 0.0}
    assert dense.choice_reward(prompt, [bad, -1e9]) == {**wrong, "reward": -100.0}
    assert dense.choice_reward(prompt, [bad, bad]) == {**wrong, "reward": -100.0}


@given(st.lists(st.floats(), min_size=2, max_size=10), st.booleans(), st.sampled_from(["none", "chars"]))
def test_any_log_likelihoods_earn_finite_numbers_in_range(logprobs, dense, normalise):
    prompt = problem(*(f"{i}" * (i + 1) for i in range(len(logprobs))))
    numbers = scored(dense=dense, normalise=normalise).choice_reward(prompt, logprobs)
    assert all(math.isfinite(value) and type(value) is float for value in numbers.values())
    assert (-100 if dense else 0) <= numbers["reward"] <= (0 if dense else 1)


def test_a_dense_reward_fails_as_low_as_it_goes():
    task = scored(dense=True)
    prompt = task.problems("train")[0]
    assert (task.failure_reward, scored().failure_reward) == (-100.0, 0.0)
    assert task.choice_reward(prompt, [-1e6, -1e9, -1, -1e6])["reward"] == -100
    assert task.reward(prompt, "Heat is conducted along it.") == {"reward": 0.0, "accuracy": 1.0}
    assert task.reward(prompt, "Steam pushes heat into it.") == {"reward": -100.0, "accuracy": 0.0}


def test_too_few_log_likelihoods_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        scored().choice_reward(problem("x", "y", "z"), [-1.0, -2.0])


# Own rows, and errors


@pytest.mark.parametrize(
    ("answer", "letter"), [(1, "B"), ("B", "B"), ("cold", "B"), (0, "A"), ("A", "C"), ("C", "C")]
)
def test_own_rows_name_the_answer_in_three_ways(tmp_path, answer, letter):
    row = {"question": "Ice is", "answer": answer}
    for column in ("options", "choices"):
        prompt = read(tmp_path, {**row, column: ["hot", "cold", "A"]})[0]
        assert prompt.reference == {"letter": letter, "letters": "ABC", "options": ["hot", "cold", "A"]}


def test_own_rows_are_scored_as_answers(tmp_path):
    row = {"question": "Ice is", "options": ["hot", "cold"], "answer": 1}
    prompt = read(tmp_path, row, mode="loglikelihood")[0]
    assert (prompt.text, prompt.choices) == ("Question: Ice is\nAnswer:", (Choice(" hot"), Choice(" cold")))


def test_own_rows_without_a_split_are_divided(tmp_path):
    rows = [{"question": f"{i} + 1?", "options": [f"{i}", f"{i + 1}"], "answer": 1} for i in range(200)]
    task = MultipleChoice("own", write(tmp_path, *rows), n_train=50)
    sizes = [len(task.problems(split)) for split in SPLITS]
    assert sizes[0] == 50
    assert all(5 <= size <= 40 for size in sizes[1:])


OWN = {"question": "Ice is", "options": ["hot", "cold"], "answer": 1}
ARC = {"question": "?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "A"}
WINO = {"sentence": "Ann saw _.", "option1": "Bob", "option2": "Cy", "answer": "1"}


@pytest.mark.parametrize(
    ("dataset", "row", "message"),
    [
        ("own", {"question": "Ice is", "answer": 1}, "KeyError: 'choices'"),
        ("own", {**OWN, "answer": 2}, "the right option is number 2"),
        ("own", {**OWN, "answer": -1}, "the right option is number -1"),
        ("own", {**OWN, "answer": "C"}, "the right option is number 2"),
        ("own", {**OWN, "answer": "warm"}, "ValueError"),
        ("own", {**OWN, "answer": "BC"}, "'BC', neither the text of one option nor a letter"),
        ("own", {**OWN, "answer": "AB"}, "'AB', neither the text of one option nor a letter"),
        ("own", {**OWN, "answer": ""}, '"answer" must be'),
        ("own", {**OWN, "answer": True}, '"answer" must be'),
        ("own", {**OWN, "answer": None}, '"answer" must be'),
        ("own", {**OWN, "options": ["hot"]}, "1 options instead of 2 to 26"),
        ("own", {**OWN, "options": [str(i) for i in range(27)]}, "27 options"),
        ("own", {**OWN, "options": [1, 2]}, "must be texts"),
        ("own", {**OWN, "question": 7}, "AttributeError"),
        ("arc_challenge", {**ARC, "answerKey": ""}, "ValueError"),
        ("arc_challenge", OWN, "compare it with the row format"),
        ("winogrande", {**WINO, "answer": ""}, "ValueError"),
        ("winogrande", {**WINO, "sentence": "Ann saw Bob."}, "the sentence has no blank"),
        ("piqa", {"goal": "g", "sol1": "a", "sol2": "b", "label": -1}, "number -1"),
        ("boolq", {"question": "q", "passage": "p", "answer": "maybe"}, "KeyError: 'maybe'"),
    ],
)
def test_a_bad_row_is_shown_in_one_clear_line(tmp_path, dataset, row, message):
    with pytest.raises(UsageError, match=f"task {dataset} cannot read the row") as error:
        read(tmp_path, row, dataset=dataset)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "arc"}, "dataset is 'arc': give one of arc_challenge, winogrande, .*, own"),
        ({"dataset": "own"}, "dataset own needs the option data"),
        ({"mode": "likelihood"}, "mode is 'likelihood': give generate or loglikelihood"),
        ({"mode": "loglikelihood", "normalise": "bytes"}, "normalise is 'bytes': give none or chars"),
        ({"dense": True}, "dense and normalise need mode loglikelihood"),
        ({"normalise": "none"}, "dense and normalise need mode loglikelihood"),
        ({"n_val": -1}, "n_val is -1"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(UsageError, match=message):
        MultipleChoice(**options)


# Grading


@pytest.mark.parametrize("mode", ["generate", "loglikelihood"])
@pytest.mark.parametrize(
    "text",
    ["answer is (" * 90_000, "\0" * 1_000_000, "\ud800" * 1_000_000, " " * 1_000_000 + "B"],
    ids=["statements", "nulls", "surrogates", "spaces"],
)
def test_hostile_texts_take_no_time(mode, text):
    task = sample("hellaswag", mode=mode)
    prompt = task.problems("train")[1]
    timings = []
    for _ in range(3):
        start = time.process_time()
        numbers = task.reward(prompt, text)
        timings.append(time.process_time() - start)
    assert min(timings) < 50e-3
    assert set(numbers.values()) <= {0.0, 1.0}


def test_a_pickled_task_grades_alike():
    task = sample("mmlu_pro")
    prompts = task.problems("test")
    copy = pickle.loads(pickle.dumps(task))
    assert [copy.reward(p, "The answer is (D).") for p in prompts] == [
        task.reward(p, "The answer is (D).") for p in prompts
    ]
