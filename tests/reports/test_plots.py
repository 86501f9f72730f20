"""Pictures: what is on disk is a whole picture, whatever happens."""

from pathlib import Path

import pytest

from es_lightning.errors import StorageError
from es_lightning.reports import plots

PNG = b"\x89PNG\r\n\x1a\n"


def test_a_picture_replaces_the_one_before_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "plots" / "one.png"
    for title in ("before", "after"):
        figure, (axes,) = plots.sheet(title)
        axes.plot([0, 1])
        plots.save(figure, path)
        written = path.read_bytes()
        assert written.startswith(PNG)
        assert written.rstrip().endswith(b"IEND\xaeB`\x82")
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "plots").write_text("a file in the way")
    with pytest.raises(StorageError, match=r"plots.*could not be written"):
        plots.save(plots.sheet("title")[0], tmp_path / "plots" / "one.png")
