"""Bytes by path below one URI, on any file system that pyarrow knows; errors name the URI."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from pyarrow import fs
from pyarrow.lib import ArrowException

from search_spaces.errors import UserError

_CHUNK_BYTES = 1 << 20


class Storage:
    """Files below one place; every path is relative to it and uses ``/``.

    Args:
        uri: A folder, or a URI that ``pyarrow.fs.FileSystem.from_uri`` knows (s3://, gs://, ...).

    Attributes:
        uri: The URI, or the folder's absolute path.

    Raises:
        UserError: When the URI is not understood or the place cannot be used; every method may.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri if "://" in uri else str(Path(uri).absolute())
        with self._explained("opened"):
            if "://" in uri:
                self._filesystem, root = fs.FileSystem.from_uri(uri)
            else:
                self._filesystem, root = fs.LocalFileSystem(), self.uri
        self._root = root.rstrip("/")
        self._refuse_file()

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder, sorted; none when there is no such folder."""
        selector = fs.FileSelector(self._at(folder), allow_not_found=True)
        with self._explained("read"):
            return sorted(info.base_name for info in self._filesystem.get_file_info(selector))

    def sizes(self, paths: Sequence[str]) -> list[int | None]:
        """Return the bytes of each file; None where there is none."""
        if not paths:
            return []
        with self._explained("read"):
            infos = self._filesystem.get_file_info([self._at(path) for path in paths])
        return [info.size if info.type == fs.FileType.File else None for info in infos]

    def read(self, path: str) -> bytes | None:
        """Return a file's content; None when there is no such file."""
        with self._explained("read"):
            try:
                with self._filesystem.open_input_stream(self._at(path)) as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

    def sha256(self, path: str) -> str:
        """Return the sha256 of a file's content, read in pieces."""
        digest = hashlib.sha256()
        with (
            self._explained("read"),
            self._filesystem.open_input_stream(self._at(path)) as stream,
        ):
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def publish_once(self, path: str, data: bytes) -> bool:
        """Make a file appear whole, unless it exists already.

        On a local (or NFS) folder this is exclusive: of several writers exactly one succeeds.
        Object stores publish an object whole when it is closed, but two writers within the same
        moment may both succeed there; then the last one stays, which is whole as well.

        Returns:
            Whether this call published the file.
        """
        target = self._at(path)
        with self._explained("written"):
            self._filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            if isinstance(self._filesystem, fs.LocalFileSystem):
                return _link_once(Path(target), data)
            if self._filesystem.get_file_info(target).type != fs.FileType.NotFound:
                return False
            with self._filesystem.open_output_stream(target) as stream:
                stream.write(data)
            return True

    def move(self, path: str, to: str) -> bool:
        """Move a file; return False when it is not there (any more)."""
        target = self._at(to)
        with self._explained("written"):
            self._filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            try:
                self._filesystem.move(self._at(path), target)
            except FileNotFoundError:
                return False
            return True

    def check_writable(self) -> None:
        """Write a small file and delete it again.

        Raises:
            UserError: When that is not possible.
        """
        probe = f".writable-{secrets.token_hex(4)}"
        self.publish_once(probe, b"")
        with self._explained("written"):
            self._filesystem.delete_file(self._at(probe))

    def _refuse_file(self) -> None:
        """Raise a UserError where a file lies: reading would find a store without results."""
        with self._explained("opened"):
            if self._filesystem.get_file_info(self._root).type == fs.FileType.File:
                raise NotADirectoryError("it is a file, not a folder")

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    @contextlib.contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ArrowException) as error:
            raise UserError(
                f"The store {self.uri} cannot be {action}: {error}. Check that the place exists, "
                "that this machine reaches it and that you may write there, or name another one "
                "under 'store'."
            ) from error


def _link_once(path: Path, data: bytes) -> bool:
    """Write a private file, flush it, and give it its name by a hard link."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(partial, path)
        except FileExistsError:
            return False
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
