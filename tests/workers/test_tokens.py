"""Tokens are made once, and again where something else could decide them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workers.requests import facts, request
from workers.tokens import token_splits


def test_tokens_of_another_library_version_are_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache's folder is named by the versions of transformers and tokenizers too."""
    model, task = facts(tmp_path)
    wanted = request(tmp_path, model, task)

    def num_folders() -> int:
        folder, cache = Path(wanted.model.folder), Path(wanted.cache_folder)
        token_splits(wanted.spec.model, folder, wanted.spec.task, wanted.task, cache)
        return len(list((cache / "tokens").iterdir()))

    assert [num_folders(), num_folders()] == [1, 1]
    for library in ("transformers", "tokenizers"):
        monkeypatch.setattr(
            "workers.tokens.library_version", lambda n, other=library: str(n == other)
        )
        num = num_folders()
    assert num == 3
