"""Files of a folder that appear whole: written aside, flushed, and then given their name."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

PARTIAL = ".partial"  # ends the name of a file that is being written


def link_once(path: Path, data: bytes) -> bool:
    """Write a private file, flush it, and give it its name by a hard link.

    Args:
        path: The name.
        data: The whole content.

    Returns:
        Whether this call made the file; False where the name was taken.
    """
    if path.exists():  # only spares the writing: the link decides
        return False
    with partial_file(path, data) as partial:
        try:
            os.link(partial, path)
        except FileExistsError:
            # NFS: the answer to a link that was made was lost, and the request repeated
            if not _is_linked(partial, path):
                return False
    sync_folder(path.parent)
    return True


@contextlib.contextmanager
def partial_file(path: Path, data: bytes) -> Iterator[Path]:
    """Yield a flushed file beside ``path`` with the given content; gone afterwards."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with open(partial, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _is_linked(partial: Path, path: Path) -> bool:
    """Whether both names are of one file, and no third one is."""
    own = os.stat(partial)
    return own.st_nlink == 2 and os.path.samestat(own, os.stat(path))


def sync_folder(folder: Path) -> None:
    """Make a new name inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
