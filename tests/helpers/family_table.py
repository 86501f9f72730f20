"""The table of families in docs/models.md: what it should say, and how it is written."""

import re
from collections.abc import Mapping
from pathlib import Path

from tests.helpers.families import FAMILIES

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
HEAD = "| family | `model_type` | transformers | vLLM | nats | |\n|---|---|---|---|---|---|\n"
ROW = re.compile(r"\| ([^|]+) \| `(\w+)` \| (\w+) \| (\w+) \| ([^|]*) \|")


def rows() -> dict[str, tuple[str, str, str, str]]:
    """The rows by family: kind, transformers, vLLM, nats."""
    found = filter(None, map(ROW.match, PAGE.read_text(encoding="utf-8").splitlines()))
    return {row[1]: (row[2], row[3], row[4], row[5].strip()) for row in found if row[1] != "family"}


def write(differences: Mapping[str, float]) -> None:
    """Write the table anew; a family without a difference keeps the one that it has."""
    old = rows()
    lines = []
    for name, family in FAMILIES.items():
        note = ": ".join(filter(None, (family.refused, family.why)))
        nats = f"{differences[name]:.0e}" if name in differences else old.get(name, ("",))[-1]
        lines.append(f"| {name} | `{family.kind}` | right | {family.vllm} | {nats} | {note} |\n")
    text = PAGE.read_text(encoding="utf-8")
    begin, end = text.index(HEAD), text.index("\n\n", text.index(HEAD) + len(HEAD) - 1)
    PAGE.write_text(text[:begin] + HEAD + "".join(lines).rstrip("\n") + text[end:], encoding="utf-8")
