"""Which option a reply chooses, rule by rule, and hostile replies."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from es_lightning.tasks.answers.letters import chosen

ANIMALS = ["a dog", "a cat", "a horse", "a trout"]
YES_NO = ["yes", "no"]
TEN = ["6", "8", "10", "12", "14", "16", "18", "20", "24", "4"]

STATEMENTS = [
    # the form that is asked for, and its neighbours
    ("It barks. The answer is (B).", "B"),
    ("It barks. The answer is (B)", "B"),
    ("The answer is B.", "B"),
    ("The answer is B", "B"),
    ("the answer is (b).", "B"),
    ("THE ANSWER IS (C).", "C"),
    ("The correct answer is: (D)", "D"),
    ("The answer is **B**.", "B"),
    ("The answer is **(B)**.", "B"),
    ("**The answer is (B).**", "B"),
    ("The **answer** is B", "B"),
    ("The answer is: **C) a horse**", "C"),
    ("The answer is [D].", "D"),
    ("The answer is {D}.", "D"),
    ("The answer is ( D ).", "D"),
    ("The answer is (**D**).", "D"),
    ('The answer is "C".', "C"),
    ("The answer is $C$.", "C"),
    (r"The answer is \(C\).", "C"),
    ("The answer is\n\n(B)", "B"),
    ("The answer is option B.", "B"),
    ("The answer is choice (B).", "B"),
    ("Answer: B", "B"),
    ("Answer: (B)", "B"),
    ("**Answer:** B", "B"),
    ("**Answer: B**", "B"),
    ("Answer: C because it is large", "C"),
    ("Answer : D", "D"),
    ("Final answer: D) a trout", "D"),
    ("Answer:\nC\n", "C"),
    (r"So \boxed{B}", "B"),
    (r"So $\boxed{\text{B}}$.", "B"),
    (r"The answer is $\boxed{D}$.", "D"),
    (r"\boxed{(C)}", "C"),
    ("<think>Hm.</think><answer>C</answer>", "C"),
    ("<answer> (C) </answer>", "C"),
    ("<answer>The answer is (C).</answer>", "C"),
    ("<answer>C) a horse</answer>", "C"),
    # A and I are words as well
    ("The answer is A.", "A"),
    ("The answer is A", "A"),
    ("The answer is A, since it barks.", "A"),
    ("The answer is A\nIt barks.", "A"),
    ("The answer is **A** because it barks.", "A"),
    ("The answer is (A) because it barks.", "A"),
    ("The answer is A dog that barks.", None),
    ("The answer is a dog that barks.", None),
    ("The answer is A-one.", None),
    ("The answer is I think (C).", None),
    ("The answer is I'm not sure.", None),
    # several statements: the last that says something
    ("The answer is (A). No, the answer is (B).", "B"),
    ("The answer is (B). Then again, the answer is (A).", "A"),
    (r"\boxed{A} or rather: the answer is (D).", "D"),
    (r"The answer is (A). <answer>C</answer> \boxed{D}", "D"),
    ("The answer is (B). The answer is clear now.", "B"),
    ("The answer is (B). The answer is not (C).", "B"),
    ("The answer is (B). The answer is (X).", None),
    ("The answer is (A) or (B).", None),
    ("The answer is A or B.", None),
    ("The answer is B and C.", None),
    ("The answer is (A), (B) or (C).", None),
    ("The answer is B/C.", None),
    ("The answer is (C). The answer is (A) or (B).", None),
    ("The answer is (B) and not (C).", "B"),
    ("The answer is (B). (A) is wrong.", "B"),
    # no letters of the options, and no letters at all
    ("The answer is (E).", None),
    ("The answer is Z.", None),
    ("The answer is not B.", None),
    ("The answer isn't B.", None),
    ("The answer is Because.", None),
    ("The answer is B-flat.", None),
    ("The answer is C++.", None),
    ("The answer is B's.", None),
    ("The answer is (AB).", None),
    ("The answer is b", "B"),
    ("The answer is b as in bee", None),
    ("The answers are (A).", None),
    ("The answer (B)", None),
    ("The answer is \u0412.", None),  # Cyrillic
    ("The answer is (\u0392).", None),  # Greek
    ("The answer is \uff22.", None),  # full width
    ("The answer is B\u0301.", None),  # with an accent
    ("The an\u017fwer is (B).", None),  # a long s
    # by its text
    ("The answer is a horse.", "C"),
    ("The answer is A horse.", "C"),
    ("The answer is **a  horse**", "C"),
    ("The answer is a horse. It has hooves.", "C"),
    ("<answer>a trout</answer>", "D"),
    (r"\boxed{\text{a trout}}", "D"),
    ("The answer is a horse or a dog.", None),
    ("The answer is horse.", None),
]

WHOLE = [
    ("B", "B"),
    (" B\n", "B"),
    ("(B)", "B"),
    ("(b)", "B"),
    ("B.", "B"),
    ("B)", "B"),
    ("B:", "B"),
    ("**B**", "B"),
    ("**B.**", "B"),
    ("**(B)**", "B"),
    ("A", "A"),
    ("B) a cat", "B"),
    ("B. a cat.", "B"),
    ("(B) A Cat", "B"),
    ("**B.** a cat", "B"),
    ("a cat", "B"),
    ("A cat.", "B"),
    ("B) a dog", None),
    ("B) and more", None),
    ("A dog is an animal.", None),
    ("A dog (A) is an animal, a cat (B) too.", None),
    ("I think so.", None),
    ("B is the one.", None),
    ("b", "B"),
    ("E", None),
    ("BB", None),
    ("AB", None),
    ("\u0412", None),
    ("a \u212aat", None),
    ("dog", None),
    ("", None),
    ("()", None),
    (".", None),
]

IT_IS = [
    ("I think it is (C).", "C"),
    ("I think it's (C).", "C"),
    ("I think it is (C). The answer is (B).", "B"),
    ("It is (A). No, it is (B).", "B"),
    ("It is not (C).", None),
    ("It is A dog.", None),
    ("It is C.", None),
    ("It is (c).", None),
    ("Is it (Z)? It is (Z).", None),
    ("So (C).", None),
]


@pytest.mark.parametrize(("reply", "letter"), STATEMENTS + WHOLE + IT_IS)
def test_replies_about_four_options(reply, letter):
    assert chosen(reply, ANIMALS) == letter


LETTERS = "ABCDEFGHIJ"
COLOURS = ["red", "green", "blue", "black", "white", "grey", "pink", "brown", "violet", "gold"]

# Replies that other projects' graders were reported to misread.
REPORTED = [
    ("The answer is A (red).", "A"),
    ("The answer is A - red", "A"),
    ("Answer: A red", "A"),
    ("The answer is B (green).", "B"),
    ("The answer is B because a car moves.", "B"),
    ("<answer>Option C</answer>", "C"),
    ("The correct option is (C).", "C"),
    ("The answer is the letter C.", "C"),
    (r"\fbox{C}", "C"),
    ("answer is d", "D"),
    (r"\boxed{\text{C: blue}}", "C"),
    ("ANSWER: **A**", "A"),
    ("ANSWER: $A$", "A"),
    ("The answer is B. Note that A is a common distractor.", "B"),
    ("Answer seems to be A.\n\nAnswer: A", "A"),
    ("Answer: C\n\nAnswer: C", "C"),
    ("<answer>A or B or C</answer>", None),
    ("The answer is (A) or (B).", None),
    ("The answer is A or B or C or D", None),
    ("A perfect answer cannot be found.", None),
    ("The answer is J because I computed it", "J"),
    ("The answer is (I).", "I"),
    # more of the same kinds
    ("B. green\n\nA leaf is green.", "B"),
    ("**B**\n\nExplanation: a leaf is green.", "B"),
    ("A leaf is green.\n\n(B)", "B"),
    ("It is not black.\nB) green", "B"),
    ("A leaf is\nA. red\nB. green\nC. blue", None),
    ("A leaf is green.\nB) blue", None),
    ("A) no\nB", None),
    ("My answer: D", "D"),
    ("**Final Answer:** (C)", "C"),
    ("Correct answer: B) green", "B"),
    ("The answer is:\n\n**C. blue**", "C"),
    ("the answer is: (a)", "A"),
    ("Answer: A, because it is red", "A"),
    ("The answer is A; it is red", "A"),
    ("The answer is I, violet", "I"),
    (r"The final answer is $\boxed{A}$. I hope it is correct.", "A"),
    ("The answer is (A) and not (B)", "A"),
    ("The answer is A/B", None),
    ("The answer is neither", None),
    ("<answer>A, B</answer>", None),
    ("<answer>(A)(B)</answer>", None),
    ("<answer>AB</answer>", None),
    ("I am not sure.", None),
    ("'C'", "C"),
    ("The answer is 'C'.", "C"),
    ("option c", "C"),
    ("The correct choice is C", "C"),
    ("Answer choice: C", "C"),
    ("The best answer would be (b).", "B"),
    ("The answer is therefore C.", "C"),
    ("Option C is correct.", "C"),
    ("(C) is the correct answer.", "C"),
    ("Neither option B nor option C is correct.", None),
    (r"\boxed{\text{Option C}}", "C"),
    ("The answer is **A red**.", "A"),
    ("<answer>BC</answer>", None),
    ("The answer is BC", None),
    (r"\boxed{A, B}", None),
    ("Answer: A/B", None),
    ("The answer is a red one.", None),
    ("The answer is I think", None),
    ("The answer is (A)(B).", None),
    ("The answer is (A) (B).", None),
    ("The answer is A; B", None),
    ("The answer is A rather than B", "A"),
    ("Answer - b", "B"),
]


@pytest.mark.parametrize(("reply", "letter"), REPORTED)
def test_replies_about_colours(reply, letter):
    assert chosen(reply, COLOURS) == letter


@pytest.mark.parametrize(
    "form",
    [
        *("The answer is {0} ({1}).", "The answer is {0} - {1}", "Answer: {0} {1}", "The answer is ({0})."),
        *("The answer is {0} because of this.", "{0}", "({0})", "'{0}'", "<answer>Option {0}</answer>"),
        *("The answer is {0}: {1}", "**{0}. {1}**", "answer: {0}", "The answer is {0}, since it fits."),
        *(
            r"\boxed{{{0}}}",
            "Option {0} is correct.",
            "The answer is {0} \u2014 {1}.",
            "I choose: answer = {0}",
        ),
    ],
)
@pytest.mark.parametrize("change", [str, str.lower], ids=["large", "small"])
def test_no_letter_is_at_a_disadvantage(form, change):
    """A and I are words too, but a policy must not learn that some letters earn less."""
    found = [
        chosen(form.format(change(letter), text), COLOURS)
        for letter, text in zip(LETTERS, COLOURS, strict=True)
    ]
    assert len({letter is None for letter in found}) == 1
    assert found == list(LETTERS) or (change is str.lower and set(found) == {None})


@pytest.mark.parametrize(
    ("reply", "options", "letter"),
    [
        ("Yes.", YES_NO, "A"),
        ("The answer is no.", YES_NO, "B"),
        ("The answer is no one.", YES_NO, None),
        ("The answer is ye\u017f.", YES_NO, None),
        ("Answer: No", YES_NO, "B"),
        ("The answer is I.", TEN, "I"),
        ("The answer is (I), I think.", TEN, "I"),
        ("The answer is I think 12.", TEN, None),
        ("The answer is 12.", TEN, "D"),
        ("The answer is 1.", TEN, None),
        ("The answer is \u0661\u0662.", TEN, None),  # Arabic digits
        ("12", TEN, "D"),
        ("J", TEN, "J"),
        ("The answer is K.", TEN, None),
        ("The answer is $5.", ["$5", "5"], "A"),
        ("The answer is 5.", ["$5", "5"], "B"),
        ("The answer is -5.", ["5", "-5"], "B"),
        ("The answer is E. coli.", ["S. aureus", "E. coli"], "B"),
        ("The answer is B.", ["AB", "O", "B", "A"], "B"),  # a letter is a letter, whatever the options say
        ("The answer is red.", ["red", "Red."], None),  # of two options
        ("The answer is (A).", ["red", "Red."], "A"),
        ("x < 5", ["x < 5", "x > 5"], "A"),
        ("<answer>x < 5</answer>", ["x < 5", "x > 5"], "A"),
        ("", ["", "."], None),
        ("The answer is .", ["", "no"], None),
    ],
)
def test_replies_about_other_options(reply, options, letter):
    assert chosen(reply, options) == letter


def test_only_the_end_of_a_long_reply_is_searched_for_statements():
    thoughts = "Let me see. " * 5000
    assert chosen(f"{thoughts}The answer is (B).", ANIMALS) == "B"
    assert chosen(f"The answer is (B). {thoughts}", ANIMALS) is None


HOSTILE = [
    "answer is " * 100_000,
    "The answer is (A) or (B). " * 40_000,
    "answer: " * 125_000,
    "answer" + " " * 1_000_000 + "is B",
    "answer is" + "*" * 1_000_000,
    "<answer>" * 125_000,
    "<answer></answer>" * 60_000,
    "<answer>" + "x" * 1_000_000 + "</answer>",
    "\\boxed{" * 140_000,
    "\\boxed{" + "x" * 1_000_000 + "}",
    "\\boxed{\\text{" * 70_000,
    "it is (" * 140_000,
    "(" * 1_000_000,
    "A " * 500_000,
    "B)" + " " * 1_000_000 + ".",
    "*" * 1_000_000,
    " " * 1_000_000,
    "\n" * 1_000_000,
    "\0" * 1_000_000,
    "\ud800" * 1_000_000,
    "\u0661" * 1_000_000,
    "a dog " * 170_000,
]


@pytest.mark.parametrize("reply", HOSTILE, ids=lambda text: f"{text[:16]!r}-{len(text)}")
def test_hostile_replies_take_no_time_and_choose_nothing(reply):
    timings = []
    for _ in range(3):
        start = time.process_time()
        assert chosen(reply, [*ANIMALS, "x" * 3000]) is None
        timings.append(time.process_time() - start)
    assert min(timings) < 50e-3


PIECES = [
    *("The answer is ", "Answer: ", "answer", " is ", "it is ", "\\boxed{", "\\text{", "}", "<answer>"),
    *("</answer>", "(", ")", "**", "A", "B", "E", "I", "a dog", " or ", ", ", ". ", "\n", "\0", "\ud800"),
    *("\u0412", "\u0661", "$", "_", " "),
]


def test_a_few_hundred_random_replies_choose_an_option_or_nothing():
    rng = random.Random(0)
    for _ in range(600):
        reply = "".join(rng.choices(PIECES, k=rng.randint(1, 60)))
        assert chosen(reply, ANIMALS) in ("A", "B", "C", "D", None)


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=40).map("".join),
    st.lists(st.text(), max_size=26),
)
def test_any_reply_and_any_options_give_a_letter_or_nothing(reply, options):
    letter = chosen(reply, options)
    assert letter is None or ord(letter) - ord("A") < len(options)


@given(st.text(alphabet=st.characters(exclude_characters="aAsSwWeErR\\<(")), st.integers(0, 3))
def test_what_comes_before_a_statement_does_not_matter(thoughts, index):
    assert chosen(f"{thoughts} The answer is ({'ABCD'[index]}).", ANIMALS) == "ABCD"[index]
