"""Where files lie on this machine: the user's cache, and relative paths made absolute."""

from __future__ import annotations

import os
import re
from importlib import metadata
from pathlib import Path

CACHE_VARIABLE = "TICKETS_CACHE"
_BUCKET_SCHEMES = ("s3", "gs", "gcs")
STORE_SCHEMES = (*_BUCKET_SCHEMES, "abfs", "abfss", "hdfs", "viewfs", "hf", "file", "local", "mock")
_TRACKING_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks", "uc")
_FSSPEC = "fsspec+"  # pyarrow hands these to the package fsspec, which knows many schemes
_SQLITE = "sqlite:///"  # what follows is the path of a file
_SECRETS = (
    "password|passwd|passphrase|pwd|token|secret|secret_?key|access_?key|account_?key|api_?key|"
    "signature|sig|credential"
)
_QUOTED = r'"(?:[^"\\]|\\.)*"' + "|" + r"'(?:[^'\\]|\\.)*'"
# Without marks around it a value ends with a space, or a mark after which no word goes on.
_OPTION = rf"""(?i)({_SECRETS})=(?:{_QUOTED}|(?:[^&\s'"]|['"](?=\w))*)"""
_FIELD = rf"""(?i)(["'](?:[\w-]*[_-])?(?:{_SECRETS})["']\s*:\s*)(?:{_QUOTED})"""
_HEADER = r"""(?i)(authorization["']?\s*[:=,]\s*["']?(?:basic|bearer|token|apikey)\s+)[^\s"',]+"""


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


def store_problem(place: str) -> str:
    """Return what keeps a folder or URI from being a store, as far as it says itself; or ""."""
    if "\0" in place:
        return f"is {masked(place)!r}, but must have no NUL character"
    scheme, mark, rest = place.partition("://")
    if not mark:
        return ""
    if scheme not in STORE_SCHEMES and not scheme.startswith(_FSSPEC):
        known = ", ".join(f"{name}://" for name in STORE_SCHEMES if name != "mock")
        return f"is '{masked(place)}', but must be a folder, or a URI that begins with {known}"
    host = re.split("[/?#]", rest)[0].rpartition("@")[2]
    if scheme in _BUCKET_SCHEMES and not host:
        return f"is '{masked(place)}', but must name a bucket: {scheme}://BUCKET/FOLDER"
    if scheme == "file" and (host or not rest.startswith("/")):
        return f"is '{masked(place)}', but must have the whole path of a folder: file:///FOLDER"
    return ""


def tracking_problem(uri: str) -> str:
    """Return what keeps a text from being an MLflow tracking URI, as far as it says itself."""
    scheme, mark, _ = uri.partition("://")
    if not mark or uri.startswith("file:"):
        return (
            f"'{masked(uri)}' is a folder, and MLflow no longer keeps runs in folders. "
            "Write 'sqlite:///mlflow.db', or the URI of a server or database"
        )
    plugins = (one.name for one in metadata.entry_points(group="mlflow.tracking_store"))
    known = sorted({*_TRACKING_SCHEMES, *plugins} - {"file"})
    if scheme.partition("+")[0] in known:  # a database's driver may follow a plus
        return ""
    names = ", ".join(f"{name}://" for name in known)
    return f"is '{masked(uri)}', but must begin with one of {names}"


def absolute(path: str) -> str:
    """Return a path without ``~`` and independent of the current folder; a URI as it is."""
    return path if "://" in path else str(Path(os.path.expanduser(path)).absolute())


def masked(text: str) -> str:
    """Return a URI, or a text with URIs, headers and JSON in it, without the credentials."""
    text = re.sub(r":(//)?\S*@", r":\1***@", text)
    text = re.sub(r"(?i)\b(bearer) [\w.+/=-]{8,}", r"\1 ***", text)
    text = re.sub(_HEADER, r"\1***", text)
    text = re.sub(_FIELD, r'\1"***"', text)
    return re.sub(_OPTION, r"\1=***", text)
