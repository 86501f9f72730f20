"""The report of a comparison: whatever a run has written stays text, and nothing is loaded or run."""

import base64
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from es_lightning.analysis.comparison.comparing import Comparison, compare
from es_lightning.analysis.comparison.folder import read_run
from es_lightning.analysis.comparison.runs import Evaluated, Run
from es_lightning.reports.comparison_cells import Table, markdown, plain
from es_lightning.reports.comparison_files import numbers, write
from es_lightning.reports.comparison_picture import pictures_of
from es_lightning.reports.comparison_tables import tables_of
from tests.helpers.compared_runs import baseline_folder, config, evaluation, fit_folder
from tests.reports.test_rollout_page import ATTRIBUTES, HOSTILE, TAGS, Reader

TAGS_HERE = TAGS | {"ul", "li", "figure", "figcaption", "picture", "source", "img", "table", "thead", "tbody"}
TAGS_HERE |= {"tr", "th", "td"}
NAME = HOSTILE.replace("\x00", "").replace("\ud800", "").replace("/", "|")  # what a folder may be called
RISING = [0.1 * step for step in range(8)]
TABLES = {"kl_drift.json": {"rows": [{"generation": 8, f"kl_tuned_base/{NAME}": 3.0}]}}
TABLES |= {"forgetting.json": {NAME: {"change": -0.5, "change_se": 0.1}}}


class Page(Reader):
    """Knows the elements that have no end."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember it."""
        super().handle_starttag(tag, attrs)
        if tag in {"img", "source"}:
            self.open.pop()


def samples(*texts: str) -> list[dict[str, object]]:
    return [{"prompt": HOSTILE, "completion": text, "reward": 0.5} for text in texts]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Two seeds of one arm, and a baseline, with hostile text in every place."""
    place = tmp_path_factory.mktemp("runs")
    rows = [
        evaluation(
            step, [0.1 * step, 0.2], prompts=[NAME, "b"], samples=samples("", HOSTILE, HOSTILE)[step // 4 :]
        )
        for step in (0, 4, 8)
    ]
    folders = [
        fit_folder(
            place / f"{seed}", rows, config(seed_everything=seed, **{"model.note": NAME}), RISING, (), TABLES
        )
        for seed in range(2)
    ]
    folders.append(
        baseline_folder(place / "rl", rows, settings=config(baseline={"note": NAME, "method": "grpo"}))
    )
    return compare(
        [read_run(folder, f"{NAME}{index}") for index, folder in enumerate(folders)], [NAME, NAME, None]
    )


@pytest.fixture(scope="module")
def written(found: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write(found, folder, 1.0)
    return folder


def test_hostile_text_is_shown_and_makes_no_element(written: Path) -> None:
    page = (written / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    read = Page(page)
    assert set(read.tags) <= TAGS_HERE
    assert read.attributes <= ATTRIBUTES | {"alt", "src", "srcset", "media"}
    assert read.open == []
    assert "</script></div></article><img src=x onerror=\"alert('x')\">" in read.text
    assert "[U+202E]gnp.exe" in read.text
    assert "{{ 7*7 }}{% endfor %}{# <script>alert(1)<" in read.text


def test_the_page_loads_nothing_and_has_each_figure_for_light_and_dark(written: Path) -> None:
    page = (written / "report.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    assert policy[1] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    sources = re.findall(r'(srcset|src)="([^"]*)"', page)
    assert all(address.startswith("data:image/svg+xml;base64,") for _, address in sources)
    figures = sorted((written / "figures").glob("*.svg"))
    assert [kind for kind, _ in sources] == ["srcset", "src"] * len(figures)
    drawings = [base64.b64decode(address.partition(",")[2]) for _, address in sources]
    assert {path.read_bytes() for path in figures} == set(drawings[1::2])
    assert b"#0d1117" in drawings[0]
    assert b"#0d1117" not in drawings[1]
    for drawing in drawings:
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(drawing).iter()}
        assert tags.isdisjoint({"script", "image", "foreignObject", "a"})
    assert {path.stem for path in figures} == {path.stem for path in (written / "figures").glob("*.png")}
    assert {path.stem for path in figures} == {"reward", "differences", "training", "change"}


def test_a_suspected_run_is_named_on_top(written: Path) -> None:
    page = (written / "report.html").read_text(encoding="utf-8")
    warning = page[page.index("<div class=warning>") : page.index("<figure>")]
    assert warning.count("<li>") == 2
    assert "3 nats per token, above 1" in warning


def test_the_markdown_table_has_a_line_per_arm_and_nothing_that_renders(written: Path) -> None:
    text = (written / "report.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) >= 3 for row in rows)
    assert not re.search(r"(?<!\\)[<>\[\]!]", "".join(rows))
    assert "\u202e" not in text
    assert plain("a|b\n*c* <d>") == r"a\|b \*c\* \<d\>"
    made = markdown("t", ["x"], [Table("n", ["a", "b"], [["1", "2"]], ["note"])])
    assert made == "# t\n\nx\n\n## n\n\n| a | b |\n| --- | ---: |\n| 1 | 2 |\n\nnote\n"


def test_numbers_are_those_of_the_comparison(found: Comparison, written: Path) -> None:
    told = json.loads((written / "numbers.json").read_text(encoding="utf-8"))
    assert told == json.loads(json.dumps(numbers(found)))
    assert told["budgets"][0]["reached"][0]["reward"]["value"] == found.budgets[0].reached[0].reward.value
    assert told["arms"][1]["stability"]["deviation"] is None, "one seed has none"


def test_every_table_has_a_cell_for_each_column(found: Comparison) -> None:
    tables = tables_of(found)
    assert {"Arms", "At equal rollouts", "Stability over seeds", "Change of the model"} <= {
        t.title for t in tables
    }
    for table in tables:
        assert all(len(row) == len(table.head) for row in table.rows), table.title


def test_the_norm_is_the_journal_s_or_that_of_an_analysis() -> None:
    evaluated = tuple(Evaluated(step, "val", {"a": 0.0, "b": float(step)}) for step in range(2))
    fit = Run("0", "ES", "0", "Sums", {}, evaluated, {"norm": [(1, 2.5)]}, {"norm": 9.0})
    policy = Run("1", "GRPO", "0", "Sums", {}, evaluated, finals={"norm": 0.5, "sparsity_ulp": 0.75})
    unknown = Run("2", "MeZO", "0", "Sums", {}, evaluated)
    [table] = [
        each
        for each in tables_of(compare([fit, policy, unknown], [None] * 3))
        if each.title == "Change of the model"
    ]
    assert table.head == ["arm", "norm", "sparsity ulp"]
    assert table.rows == [["ES", "2.5", "-"], ["GRPO", "0.5", "0.75"], ["MeZO", "-", "-"]]


def test_a_picture_is_the_same_whenever_it_is_drawn(found: Comparison, written: Path) -> None:
    again = next(each for each in pictures_of(found) if each.name == "differences").drawn()
    assert again.svg == (written / "figures" / "differences.svg").read_bytes()
    assert again.png == (written / "figures" / "differences.png").read_bytes()


def test_one_arm_alone_is_compared_with_nothing(tmp_path: Path) -> None:
    rows = [evaluation(step, [0.1 * step, 0.3]) for step in range(2)]
    folders = [fit_folder(tmp_path / f"{seed}", rows, config(seed_everything=seed)) for seed in range(2)]
    alone = compare([read_run(folder) for folder in folders], [None, None])
    for table in tables_of(alone):
        assert not any("better" in name or "error" in name for name in table.head), table.title
        assert all(len(row) == len(table.head) for row in table.rows), table.title
    assert "differences" not in [each.name for each in pictures_of(alone)]
