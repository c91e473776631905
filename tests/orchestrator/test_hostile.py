"""Files that somebody else wrote: names that lead elsewhere, and bytes that hold code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from orchestrator.markers import DamagedMarkerError, Marker, decode_marker, encode_marker
from orchestrator.store import COMMITTED, Store
from search_spaces.contracts import ArtifactInfo
from search_spaces.errors import SpecError, UserError
from search_spaces.ticket_info import MaskEntry, read_info
from tests.orchestrator.factories import make_result, make_trial
from workers.lineage_file import LineageFileError, read_lineage
from workers.mask_file import MaskFileError, read_mask
from workers.reference_masks import _load

NAMES = ["../x", "/etc/passwd", "a/b", ".hidden", "", "a\n", "x\0y", "..", "a\\b"]


class Code:
    """Unpickled, it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return os.mkdir, (str(self._trace), 0o700)


@pytest.mark.parametrize("name", NAMES)
def test_marker_that_names_a_place_elsewhere(tmp_path: Path, name: str) -> None:
    """A marker whose hash is right but whose names are no names counts as damaged."""
    trial = make_trial()
    info = ArtifactInfo(name=name, sha256="0" * 64, num_bytes=1)
    hostile = [
        make_result(trial, "a").model_copy(update={"artifacts": {name: info}}),
        make_result(trial, "a").model_copy(update={"artifacts": {"mask.arrow": info}}),
        make_result(trial, "a").model_copy(update={"attempt": name}),
    ]
    for number, result in enumerate(hostile):
        data = encode_marker(Marker.now(trial.spec, result))
        with pytest.raises(DamagedMarkerError, match="which is no plain name"):
            decode_marker(data, trial.key)
        store = tmp_path / f"store{number}"
        folder = store / "results" / trial.key
        folder.mkdir(parents=True)
        (folder / COMMITTED).write_bytes(data)
        assert Store(str(store)).read(trial.key) is None  # withdrawn: the trial counts as not run
        assert not (folder / COMMITTED).exists()


@pytest.mark.parametrize("name", NAMES)
def test_ticket_that_names_a_place_elsewhere(name: str) -> None:
    """A downloaded ticket reads its own files only."""
    with pytest.raises(ValidationError):
        MaskEntry(seed=1, file=name, sha256="0", select_score=0.5, sparsity_per_matrix={})


def test_pickles_are_refused_and_not_run(tmp_path: Path) -> None:
    """No reader runs what a file holds, whatever the file is called."""
    trace = tmp_path / "ran"
    plain, saved = tmp_path / "plain.pt", tmp_path / "saved.pt"
    plain.write_bytes(pickle.dumps(Code(trace)))
    torch.save({"encoder.layer.0.attention.self.query.weight_mask": Code(trace)}, saved)
    for path in (plain, saved):
        data = path.read_bytes()
        with pytest.raises(SpecError, match="holds code, which is not run"):
            _load(path)
        with pytest.raises(MaskFileError):
            read_mask(data, None, "mask")
        with pytest.raises(LineageFileError):
            read_lineage(data, None, "lineage")
        with pytest.raises(UserError):
            read_info(data, "ticket")
        with pytest.raises(DamagedMarkerError):
            decode_marker(data, "0" * 64)
    assert not trace.exists()
