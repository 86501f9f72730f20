"""Pages show whatever a model wrote as text: read back by Python's own HTML parser."""

import re
import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_lightning.reports.rollout_page import SHOWN_CHARACTERS, Answer, rollout_page, visible

HOSTILE = (
    "</script></div></article><img src=x onerror=\"alert('x')\"><style>body{display:none}</style>"
    "<a href=javascript:alert(1)>&lt;b&gt;</a><!-- \x00\x1b[31m \u202egnp.exe \ud800 \ufeff ]]> -->"
    "{{ 7*7 }}{% endfor %}{# <script>alert(1)</script>"
)
TAGS = {*("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "b", "section", "div")}
TAGS |= {"article", "header", "span", "details", "summary"}
ATTRIBUTES = {"lang", "charset", "name", "content", "http-equiv", "class", "dir"}


class Reader(HTMLParser):
    """Collects tags, attributes and the text that a browser would show."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember it."""
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Every tag closes the one that was opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Remember what is shown."""
        if self.open[-1:] != ["style"]:
            self.text += data

    def handle_comment(self, data: str) -> None:
        """There are none."""
        raise AssertionError(data)


def answer(generations: int, text: str, reward: float, **fields: object) -> Answer:
    values = {"sample": 0, "characters": len(text), "finish_reason": "stop", "tokens": 3} | fields
    return Answer(generations, completion=text, scores={"reward": reward, "format": 1.0}, **values)  # type: ignore[arg-type]


def page(rows: list[Answer], prompt: str = "a prompt", name: str = "task/val/0") -> str:
    return rollout_page("Task on base", {"seed": 7}, {(name, prompt): rows})


@pytest.mark.parametrize("place", ["completion", "prompt", "name", "title", "fact", "score", "finish_reason"])
def test_hostile_text_stays_text_wherever_it_comes_from(place: str) -> None:
    at = {place: HOSTILE}
    row = Answer(0, 0, at.get("completion", "a"), 1, at.get("finish_reason", "stop"), 1, {"reward": 1.0})
    if "score" in at:
        row = Answer(0, 0, "a", 1, "stop", 1, {"reward": 1.0, HOSTILE: 2.0})
    made = rollout_page(
        at.get("title", "t"),
        {at.get("fact", "seed"): at.get("fact", 0)},
        {(at.get("name", "n"), at.get("prompt", "p")): [row]},
    )
    found = Reader(made)
    assert set(found.tags) <= TAGS
    assert found.attributes <= ATTRIBUTES
    assert found.open == []
    assert "</script></div></article><img src=x onerror=\"alert('x')\">" in found.text
    assert "[U+0000][U+001B][31m [U+202E]gnp.exe \ufffd [U+FEFF]" in found.text
    assert "{{ 7*7 }}{% endfor %}{# <script>alert(1)</script>" in found.text
    made.encode("utf-8")


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_is_shown_character_by_character(text: str) -> None:
    made = visible(text)
    made.encode("utf-8")
    found = Reader(made)
    assert set(found.tags) <= {"span"}
    expected = re.sub("[\ud800-\udfff]", "\ufffd", text.replace("\r\n", "\n"))
    assert unmarked(found.text) == unmarked(expected)


def unmarked(text: str) -> str:
    """Text with each character in the place of its code, whoever wrote the code."""
    return re.sub(r"\[U\+([0-9A-F]{4,5})\]", lambda mark: chr(int(mark[1], 16)), text)


def test_no_character_that_turns_or_hides_text_is_left() -> None:
    everything = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    left = {
        unicodedata.name(c, hex(ord(c)))
        for c in visible(everything)
        if unicodedata.bidirectional(c) in {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
        or (unicodedata.category(c) == "Cc" and c not in "\t\n")
        or unicodedata.name(c, "").startswith(("TAG ", "LANGUAGE TAG", "CANCEL TAG"))
    }
    assert left == set()
    hidden = "".join(chr(0xE0000 + ord(letter)) for letter in "hi")
    assert "[U+E0068]" in visible(f"a{hidden}b")


def test_a_completion_of_a_megabyte_is_cut_with_a_note() -> None:
    made = page([answer(0, "<" * 20_000, 0.0, characters=1_000_000)], prompt="p" * 5000)
    assert made.count("&lt;") == SHOWN_CHARACTERS
    assert "4,000 of 1,000,000 characters are shown" in made
    assert "4,000 of 5,000 characters are shown" in made
    assert len(made) < 40_000


def test_a_change_is_told_in_words() -> None:
    text = Reader(
        page([answer(0, "a", 0.25), answer(5, "b", 0.75), answer(10, "c", 0.5), answer(15, "d", 0.5)])
    ).text
    assert "better by 0.5 since 0" in text
    assert "worse by 0.25 since 5" in text
    assert "as after 10" in text
    assert "after 0 generations 0.25, after 15 generations 0.5" in text


def test_each_sample_is_compared_with_its_own_past() -> None:
    rows = [answer(u, "x", r, sample=s) for u, s, r in [(0, 0, 0.0), (0, 1, 1.0), (1, 0, 0.5), (1, 1, 0.5)]]
    text = Reader(page(rows)).text
    assert "after 1 generation, sample 1reward 0.5\u25b2 better by 0.5" in text
    assert "after 1 generation, sample 2reward 0.5\u25bc worse by 0.5" in text


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("moments", range(1, 7))
def test_every_answer_is_on_the_page_once_and_the_middle_is_folded(moments: int, samples: int) -> None:
    rows = [answer(u, f"({u},{s})", 0.0, sample=s) for u in range(moments) for s in range(samples)]
    made = page(rows)
    shown, _, folded = made.partition("<details>")
    assert [made.count(row.completion) for row in rows] == [1] * len(rows)
    unasked = {0, moments - 2, moments - 1}
    assert all((row.completion in shown) == (row.generations in unasked) for row in rows)
    assert ("measurement" in folded) == (moments > 3)


def test_a_page_asks_for_nothing_from_elsewhere() -> None:
    made = page([answer(0, "see http://example.org/x.png", 0.0)])
    assert re.findall(r"(?:src=|href=|url\(|@import|<script|<link)", made) == []
    assert "default-src 'none'" in made
