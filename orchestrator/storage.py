"""Bytes by path below one URI, on any file system that pyarrow knows; errors name the URI."""

from __future__ import annotations

import contextlib
import copy
import errno
import hashlib
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pyarrow import fs
from pyarrow.lib import ArrowException

from orchestrator.whole_files import PARTIAL, link_once, partial_file
from search_spaces.errors import StoreAwayError, UserError
from search_spaces.outages import may_pass
from search_spaces.places import masked, store_problem

SETTLE_S = 0.2  # between a write and the look at who won, where a file system has no exclusive one
_CHUNK_BYTES = 1 << 20
_NOT_COPIED = ("tls_ca_dir_path", "tls_verify_certificates", "smart_defaults")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


class Storage:
    """Files below one place; every path is relative to it and uses ``/``.

    Args:
        uri: A folder, or a URI that ``pyarrow.fs.FileSystem.from_uri`` knows (s3://, gs://, ...).

    Attributes:
        uri: The URI, or the folder's absolute path.

    Raises:
        UserError: When the URI is not understood or the place cannot be used; every method may.
            A StoreAwayError where it may work again in a moment.
    """

    def __init__(self, uri: str) -> None:
        if problem := store_problem(uri):
            raise UserError(f"The store {masked(uri)} cannot be opened: it {problem}.")
        self.uri = uri if "://" in uri else str(Path(uri).absolute())
        with self._explained("opened"):
            if "://" in uri:
                filesystem, root = fs.FileSystem.from_uri(uri)
                self._filesystem = _quick(filesystem, uri)
            else:
                self._filesystem, root = fs.LocalFileSystem(), self.uri
        self._root = root.rstrip("/")
        self._refuse_file()

    @property
    def folder(self) -> Path | None:
        """The folder that this is, also where a URI names one; None on an object store."""
        return Path(self._root) if self._is_folder else None

    def shown(self, path: str) -> str:
        """Return where a path is, for people and logs: without credentials and options."""
        root = self.uri.partition("?")[0] if "://" in self.uri else self.uri
        return masked(f"{root.rstrip('/')}/{path}")

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder, sorted; none when there is no such folder."""
        selector = fs.FileSelector(self._at(folder), allow_not_found=True)
        with self._explained("read"):
            return sorted(info.base_name for info in self._filesystem.get_file_info(selector))

    def files(self, folder: str) -> list[tuple[str, int]]:
        """Return path, relative to the folder, and bytes of every file below it, sorted."""
        root = self._at(folder)
        selector = fs.FileSelector(root, allow_not_found=True, recursive=True)
        with self._explained("read"):
            infos = self._filesystem.get_file_info(selector)
        files = (info for info in infos if info.type == fs.FileType.File)
        return sorted((info.path[len(root) :].lstrip("/"), info.size) for info in files)

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
        with self._explained("read"), self._filesystem.open_input_stream(self._at(path)) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def publish_once(self, path: str, data: bytes, settle_s: float = SETTLE_S) -> bool:
        """Make a file appear whole, unless it exists already.

        On a local (or NFS) folder this is exclusive: of several writers exactly one succeeds.
        pyarrow (25) offers no conditional write on object stores. There the object, which appears
        whole when it is closed, is written only where none was, and read back after ``settle_s``:
        who finds another's bytes has lost. Two writers may both succeed only where one of them
        took longer than ``settle_s`` between its look and its write; then the last one stays,
        which is whole as well. Nothing is learnt where both write the same bytes.

        Args:
            path: Where.
            data: The whole content.
            settle_s: Seconds between write and look; not waited for on a local folder.

        Returns:
            Whether this call published the file.
        """
        target = self._at(path)
        with self._explained("written"):
            self._filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            if self._is_folder:
                return link_once(Path(target), data)
            if self._filesystem.get_file_info(target).type != fs.FileType.NotFound:
                return False
            self._write(target, data)
        time.sleep(settle_s)
        return self.read(path) == data

    def replace(self, path: str, data: bytes) -> None:
        """Make a file appear whole in place of what may be there; of several writers the last."""
        target = self._at(path)
        with self._explained("written"):
            self._filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            if self._is_folder:
                with partial_file(Path(target), data) as partial:
                    os.replace(partial, target)
            else:
                self._write(target, data)

    def copy_in(self, path: str, source: Path) -> str:
        """Copy a file of this machine, whole in place of what may be there; return its sha256."""
        target = self._at(path)
        with self._explained("written"):
            self._filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            if not self._is_folder:
                return self._copied(source, target)
            partial = Path(f"{target}.{secrets.token_hex(4)}{PARTIAL}")
            try:
                sha256 = self._copied(source, str(partial))
                os.replace(partial, target)
            finally:
                partial.unlink(missing_ok=True)
        return sha256

    def _copied(self, source: Path, target: str) -> str:
        digest = hashlib.sha256()
        with (
            source.open("rb") as stream,
            self._filesystem.open_output_stream(target, compression=None) as out,
        ):
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
                out.write(chunk)
        return digest.hexdigest()

    def delete(self, path: str) -> None:
        """Delete a file; nothing happens when it is not there."""
        with self._explained("written"), self._absent_is_fine(path):
            self._filesystem.delete_file(self._at(path))

    def delete_folder(self, path: str) -> None:
        """Delete a folder with all that is in it; nothing happens when it is not there."""
        selector = fs.FileSelector(self._at(path), allow_not_found=True)
        with self._explained("written"):
            if self._filesystem.get_file_info(selector):
                self._filesystem.delete_dir(self._at(path))

    def move(self, path: str, to: str) -> bool:
        """Move a file; return False when it is not there (any more)."""
        target = self._at(to)
        with self._explained("written"):
            self._filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            with self._absent_is_fine(path):
                self._filesystem.move(self._at(path), target)
                return True
        return False

    def check_writable(self) -> None:
        """Write a small file and delete it again.

        Raises:
            UserError: When that is not possible.
        """
        probe = f".writable-{secrets.token_hex(4)}"
        self.publish_once(probe, b"", settle_s=0)
        self.delete(probe)

    def _refuse_file(self) -> None:
        """Raise a UserError where a file lies: reading would find a store without results."""
        with self._explained("opened"):
            if self._filesystem.get_file_info(self._root).type == fs.FileType.File:
                raise NotADirectoryError("it is a file, not a folder")

    @property
    def _is_folder(self) -> bool:
        return isinstance(self._filesystem, fs.LocalFileSystem)

    def _write(self, target: str, data: bytes) -> None:
        with self._filesystem.open_output_stream(target, compression=None) as stream:
            stream.write(data)

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    @contextlib.contextmanager
    def _absent_is_fine(self, path: str) -> Iterator[None]:
        """Ignore that a file is not there; S3 says so by an OSError without a type of its own."""
        try:
            yield
        except OSError:
            if self._filesystem.get_file_info(self._at(path)).type == fs.FileType.File:
                raise

    @contextlib.contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ArrowException) as error:
            kind = StoreAwayError if may_pass(error) else UserError
            raise kind(
                f"The store {masked(self.uri)} cannot be {action}: {masked(str(error))}. "
                f"{_advice(error)}"
            ) from error


def _quick(filesystem: fs.FileSystem, uri: str) -> fs.FileSystem:
    """Return a file system whose calls end soon where the server never answers.

    On S3 a call of what ``from_uri`` returns then takes 100 s, in which a driver does nothing else.
    A copy tries three times, 10 s in all, as AWS's own clients do; a URI has no option that says so
    (pyarrow 25). What a copy does not take over is left as it is.
    """
    if filesystem.type_name != "s3" or any(option in uri for option in _NOT_COPIED):
        return filesystem
    return copy.copy(filesystem)


def _advice(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number in _FULL:
        return "The place is full: free some space there and run the same command again."
    if number in _FORBIDDEN:
        return "You may not write there: mend its permissions or mount, or name another 'store'."
    return (
        "Check that the place exists, that this machine reaches it and that you may write there, "
        "or name another one under 'store'."
    )
