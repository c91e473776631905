"""Inputs in a store: copied to a node once, and only as what their name says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from search_spaces.errors import SpecError
from search_spaces.inputs import MANIFEST, InputFile, InputManifest, local_path, manifest_of


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store, and an empty cache beside it."""
    monkeypatch.setenv("TICKETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "store"


def _put(store: Path, files: dict[str, bytes]) -> str:
    """Write an input as an upload leaves it; return the URI of its folder."""
    source = store.parent / "source"
    source.mkdir(exist_ok=True)
    paths = {}
    for number, (name, data) in enumerate(files.items()):
        paths[name] = source / str(number)
        paths[name].write_bytes(data)
    manifest = manifest_of(paths)
    folder = store / "inputs" / manifest.id
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / MANIFEST).write_bytes(manifest.model_dump_json().encode())
    return folder.as_uri()


def test_plain_path_is_itself(tmp_path: Path) -> None:
    """What is no URI is looked for on this machine."""
    assert local_path(str(tmp_path)) == tmp_path
    assert local_path("~/x") == Path.home() / "x"
    assert local_path("~no-such-user/x") == Path("~no-such-user/x")  # is not there, as others say


def test_input_is_copied_once(store: Path) -> None:
    """A file and its folder are found, and stay found when the store is gone."""
    uri = _put(store, {"train.csv": b"a,b\n", "sub/dev.csv": b"c\n"})
    assert local_path(f"{uri}/train.csv").read_bytes() == b"a,b\n"
    store.rename(store.with_name("away"))
    assert (local_path(uri) / "sub" / "dev.csv").read_bytes() == b"c\n"


def test_copy_is_private(store: Path) -> None:
    """Other users of the node may not read another's data."""
    copied = local_path(_put(store, {"train.csv": b"secret"}))
    assert copied.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("what", ["content", "manifest", "no manifest"])
def test_changed_input_is_refused(store: Path, what: str) -> None:
    """Nothing of an input that was damaged stays on the node."""
    uri = _put(store, {"train.csv": b"good"})
    folder = Path(uri.removeprefix("file://"))
    if what == "content":
        (folder / "train.csv").write_bytes(b"evil")
    elif what == "manifest":
        (folder / MANIFEST).write_text('{"files": []}')
    else:
        (folder / MANIFEST).unlink()
    with pytest.raises(SpecError, match=r"damaged or changed|cannot be copied from the store"):
        local_path(f"{uri}/train.csv")
    left = list((store.parent / "cache").rglob("train.csv"))
    assert left == []


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", ".hidden", "a//b", "", "a/."])
def test_path_out_of_the_folder_is_refused(store: Path, path: str) -> None:
    """A manifest that names a place elsewhere is no manifest, whoever wrote it."""
    sha256 = "0" * 64
    with pytest.raises(ValidationError):
        InputFile(path=path, sha256=sha256, num_bytes=0)
    uri = _put(store, {"train.csv": b"good"})
    folder = Path(uri.removeprefix("file://"))
    entry = {"path": path, "sha256": sha256, "num_bytes": 0}
    (folder / MANIFEST).write_text(json.dumps({"files": [entry]}))
    with pytest.raises(SpecError, match="damaged or changed"):
        local_path(uri)


@pytest.mark.parametrize(
    "uri", ["https://host/train.csv", "s3://b/inputs/123/x", "file:///s/inputs/" + "a" * 64 + "/.."]
)
def test_uri_of_something_else(uri: str) -> None:
    """Only inputs of a store are read by URI; the message says how they look."""
    with pytest.raises(SpecError, match=r"is not the URI of an input.*tickets submit"):
        local_path(uri)


def test_unreadable_file(tmp_path: Path) -> None:
    """A file that is not there is a fault with its name."""
    with pytest.raises(SpecError, match=r"absent.csv: cannot be read"):
        manifest_of({"absent.csv": tmp_path / "absent.csv"})


@pytest.mark.parametrize("name", ["a b.csv", "../x", ".hidden", "a\nb"])
def test_name_that_no_store_takes(tmp_path: Path, name: str) -> None:
    """It is told before anything is copied."""
    (tmp_path / "x").write_text("")
    with pytest.raises(SpecError, match=r"(?s)x: is called .* no name in a store\. Use letters"):
        manifest_of({name: tmp_path / "x"})


@settings(deadline=None)
@given(st.dictionaries(st.from_regex(r"\A[a-z]{1,5}\Z"), st.binary(max_size=8), max_size=4))
def test_id_is_content(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    """An input's id depends on names and bytes, not on where and in which order the files lay."""

    def manifest(names: list[str]) -> InputManifest:
        folder = tmp_path_factory.mktemp("files")
        for name in names:
            (folder / name).write_bytes(files[name])
        return manifest_of({name: folder / name for name in names})

    one, other = manifest(sorted(files)), manifest(sorted(files, reverse=True))
    assert one.id == other.id
    if files:
        changed = dict(files) | {min(files): files[min(files)] + b"!"}
        folder = tmp_path_factory.mktemp("changed")
        for name, data in changed.items():
            (folder / name).write_bytes(data)
        assert manifest_of({name: folder / name for name in changed}).id != one.id
