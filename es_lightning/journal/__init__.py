"""The journal of a run: one line per update, from which any centre can be rebuilt."""

from es_lightning.journal.entry import JOURNAL, REWARDS, Entry, lineage, parse, read_journal
from es_lightning.system.moved import names_of

__all__ = ["JOURNAL", "REWARDS", "Entry", "lineage", "parse", "read_journal"]
__getattr__ = names_of("journal")
