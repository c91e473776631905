"""Files that appear whole, also where a network file system loses an answer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.whole_files import link_once


def test_a_link_whose_answer_was_lost_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS repeats the request, which then says that the name is taken: by this very file."""
    link = os.link

    def repeated(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", repeated)
    path = tmp_path / "marker"
    assert link_once(path, b"mine")
    assert path.read_bytes() == b"mine"
    assert [found.name for found in tmp_path.iterdir()] == ["marker"]


def test_a_name_that_another_has_taken_meanwhile_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, path = os.link, tmp_path / "marker"

    def late(source: Path, target: Path) -> None:
        path.write_bytes(b"another's")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    assert not link_once(path, b"mine")
    assert path.read_bytes() == b"another's"
