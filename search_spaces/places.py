"""Where files lie on this machine: the user's cache, and relative paths made absolute."""

from __future__ import annotations

import os
import re
from pathlib import Path

CACHE_VARIABLE = "TICKETS_CACHE"
_SQLITE = "sqlite:///"  # what follows is the path of a file
_SECRETS = (
    "password|passwd|passphrase|pwd|token|secret|secret_key|access_key|account_key|api_?key|"
    "signature|sig|credential"
)


def cache_folder() -> Path:
    """Return the user's cache: ``$TICKETS_CACHE``, else ``$XDG_CACHE_HOME/bert-tickets``."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(os.path.expanduser(given))
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(base)) / "bert-tickets"


def at_home(place: str) -> str:
    """Return a path, or the URI of an SQLite file, with a leading ``~`` replaced.

    Other URIs, relative and absolute paths stay as they are.
    """
    scheme = _SQLITE if place.startswith(_SQLITE) else ""
    path = place.removeprefix(scheme)
    return place if "://" in path else scheme + os.path.expanduser(path)


def absolute(path: str) -> str:
    """Return a path without ``~`` and independent of the current folder; a URI as it is."""
    return path if "://" in path else str(Path(os.path.expanduser(path)).absolute())


def masked(text: str) -> str:
    """Return a URI, or a text with URIs and headers in it, without the credentials."""
    text = re.sub(r":(//)?\S*@", r":\1***@", text)
    text = re.sub(r"(?i)\b(bearer) [\w.+/=-]{8,}", r"\1 ***", text)
    return re.sub(rf"(?i)({_SECRETS})=[^&\s'\"]*", r"\1=***", text)
