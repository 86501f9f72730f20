"""What the sections have found: rows of a Markdown table."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from es_lightning.system.text import printable, shortened

AGREES, DIFFERS, ALLOWED, FAILED, SKIPPED = "agrees", "DIFFERS", "other bits, allowed", "failed", "skipped"
MEASURED = ""  # a number, of which nothing is expected
WRONG = {DIFFERS, FAILED}


@dataclass(frozen=True)
class Settings:
    """What all sections are told.

    Args:
        device: torch device type, such as ``cuda`` or ``cpu``.
        base: the model, as in ``--model.base``.
        dtype: precision of the engines.
        seed: keys members and prompts.
        sigma: noise scale of the members that are compared.
        members: of a generation.
        prompts: of a generation.
        tokens: most new tokens of a completion.
    """

    device: str
    base: str = "embedded"
    dtype: str = "auto"
    seed: int = 0
    sigma: float = 0.02
    members: int = 8
    prompts: int = 32
    tokens: int = 24


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        what: what was tried.
        result: what came out.
        verdict: one of the words above.
    """

    what: str
    result: str
    verdict: str = MEASURED

    def packed(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)


def compared(what: str, wrong: Sequence[str], count: int, otherwise: str = DIFFERS) -> Row:
    """Return a row on tensors that should have the same bits.

    Args:
        what: what was compared.
        wrong: names of those that differ.
        count: how many there were.
        otherwise: the verdict if some differ.
    """
    result = f"{count - len(wrong)} of {count} have the same bits"
    first = f"; the first that has not: {wrong[0]}" if wrong else ""
    return Row(what, result + first, otherwise if wrong else AGREES)


def attempted(what: str, act: Callable[[], Iterator[Row]]) -> Iterator[Row]:
    """Yield rows; an exception becomes the last one."""
    try:
        yield from act()
    except Exception as error:  # whatever it is, the other rows are still wanted
        yield failed(what, f"{type(error).__name__}: {error}")


def failed(what: str, reason: str) -> Row:
    """Return a row that says why there is no result."""
    return Row(what, f"failed: {shortened(' '.join(reason.split()))}", FAILED)


def skipped(what: str, reason: str) -> Row:
    """Return a row that says why something was not tried."""
    return Row(what, f"skipped: {reason}", SKIPPED)


def table(parts: dict[str, list[Row]]) -> str:
    """Return Markdown, with the rows of each part in order."""
    everything = [row for rows in parts.values() for row in rows]
    wrong = sum(row.verdict in WRONG for row in everything)
    agreeing = sum(row.verdict == AGREES for row in everything)
    summary = f"**{wrong} rows differ or failed, {agreeing} agree.**"
    lines = [summary, "", "| part | what | result | verdict |", "|---|---|---|---|"]
    for part, rows in parts.items():
        for row in rows:
            cells = (part, row.what, row.result, row.verdict)
            lines.append(f"| {' | '.join(_cell(each) for each in cells)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Return a text that breaks no table, and is shown as it is."""
    return printable(text).replace("|", "\\|").replace("<", "&lt;")
