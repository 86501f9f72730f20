"""Model cards, read back by the hub's own class: values are text, whatever they hold."""

import json
import shlex
import socket
from collections.abc import Callable
from typing import Any

import pytest
from huggingface_hub import ModelCard

from es_lightning.models.card import Export, export_card, model_card, rebuilt_card

# What jinja2 would run, what would end a table's cell or row, and what ModelCard takes line breaks from.
HOSTILE = "{{ 7*7 }}{% raw %}{# <script>alert('x')</script> | a\r\nb" + 100 * "\r" + "\n---\n\n`c`"
ON_A_LINE = "{{ 7*7 }}{% raw %}{# <script>alert('x')</script> | a b --- `c`"
IN_A_CELL = ON_A_LINE.replace("|", "\\|")


def finished(text: str, base: str = "tiny") -> str:
    return model_card(
        {
            "task": text,
            "base": base,
            "held_out_split": "test",
            "held_out_before": None,
            "held_out_after": text,
            "generations": 9,
            "centre_of_generation": 4,
            "centre_checksum": "c0ffee",
            "settings": {text: text},
            "held_out_accuracy": {
                "before": None,
                "after": {"right": 3, "of": 4, "rate": 0.75, "low": 0.3, "high": 0.95},
            },
            "examples": [{"kind": "newly right", "prompt": text, "before": text, "after": text}],
        }
    )


def exported(text: str, base: str = "tiny", journaled: int | None = 3, place: str = "place") -> str:
    return export_card(Export(base, text, 4, "c0ffee", text, {text: text}, {text: 0.5}, journaled, place))


def rebuilt(text: str, base: str = "tiny") -> str:
    return rebuilt_card({"task": text, "base": base, "settings": {text: text}}, 3, "c0ffee", 0.123456)


CARDS = pytest.mark.parametrize("made", [finished, exported, rebuilt])


@CARDS
def test_hostile_text_is_neither_run_nor_breaks_the_card(made: Callable[..., str]) -> None:
    card = made(HOSTILE, base=HOSTILE)
    assert "49" not in card
    assert "\r" not in card
    _, _, body = card.partition("---\n\n")
    # With one slash it may be the hub's; the front matter holds it as one value.
    assert ModelCard(card).data.base_model == (None if made is rebuilt else HOSTILE)
    (heading,) = [line for line in body.splitlines() if line.startswith("# ")]
    assert heading.count(ON_A_LINE) == 2, "base and task"
    assert f"| {IN_A_CELL} | {IN_A_CELL} |" in body.splitlines()
    rows = [line for line in body.splitlines() if line.startswith("|")]
    assert all(row.replace("\\|", "").count("|") == 3 for row in rows)
    assert body == ModelCard(card).text.lstrip("\n")


def test_examples_are_shown_as_code_cut_to_a_line() -> None:
    card = finished("`a` | b\nc " + 400 * "x")
    assert f"| newly right: `'a' \\| b c {'x' * 287}...` | |" in card
    assert "| after | 0.750 (0.30 to 0.95, 3 of 4) |" in card
    assert "| before | (nothing) |" in finished("")


@CARDS
def test_the_front_matter_is_what_the_hub_reads(made: Callable[..., str]) -> None:
    data = ModelCard(made("Task", base="org/model")).data.to_dict()
    known = {"library_name": "transformers", "tags": ["evolution-strategies", "es-lightning"]}
    if made is not rebuilt:
        known |= {"base_model": "org/model", "pipeline_tag": "text-generation"}
    assert data == known


@pytest.mark.parametrize("base", ['org/a: "b" # c', "org/- {a}", "org/{{ 7*7 }}", "org/null", "1/2"])
def test_a_base_of_odd_characters_stays_one_value(base: str) -> None:
    assert ModelCard(exported("Task", base=base)).data.base_model == base


@CARDS
def test_a_card_is_made_without_the_network(
    made: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("asked for a connection")

    monkeypatch.setattr(socket.socket, "connect", refused)
    assert made("Task", base="org/model").endswith("\n")


@pytest.mark.parametrize("place", ["me/tuned", "the best", 'it\'s "quoted"', "$(x) {{ 7*7 }} <b>"])
def test_the_place_is_quoted_for_python_and_for_the_shell(place: str) -> None:
    card = exported("Task", place=place)
    (line,) = [line for line in card.splitlines() if line.startswith("vllm serve ")]
    assert shlex.split(line) == ["vllm", "serve", place]
    assert f'from_pretrained({json.dumps(place)}, dtype="auto")' in card
    assert f"from_pretrained({json.dumps(place)})" in card


def test_each_card_has_its_sections_and_no_other() -> None:
    made, loaded, again = "How it was made", "Load it", "Make it again"
    expected = {
        finished("Task"): [made, loaded],
        exported("Task"): [made, loaded, again],
        exported("Task", journaled=None): [made, loaded, again],
        rebuilt("Task"): [],
    }
    found = {
        card: [line.removeprefix("## ") for line in card.splitlines() if line.startswith("## ")]
        for card in expected
    }
    assert found == expected
    assert all("\n\n\n" not in card and card.endswith("\n") for card in expected)


def test_a_card_tells_how_its_centre_came_about() -> None:
    assert "--generation 3 --output rebuilt" in exported("Task")
    assert "No update of the journal" in exported("Task", journaled=None)
    assert "es-lightning replay" not in exported("Task", journaled=None)
    assert "| put back to the centre before generation | 4 |" in finished("Task")
    assert "| before | not measured |" in finished("Task")
    assert "the centre after generation 3, checksum `c0ffee`" in rebuilt("Task")
    assert "mean reward in it was 0.1235." in rebuilt("Task")
