"""Ray's token: found as Ray finds it, made privately, and demanded beyond this machine."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import secrets
import shlex
import socket
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from search_spaces.errors import UserError
from search_spaces.places import masked

MODE_VARIABLE = "RAY_AUTH_MODE"
TOKEN_VARIABLE = "RAY_AUTH_TOKEN"
PATH_VARIABLE = "RAY_AUTH_TOKEN_PATH"
_DEFAULT = "~/.ray/auth_token"
_OTHERS = stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH
_HOST = re.compile(r"[\w.:%-]+")  # also of other alphabets, and IPv6
_TOKEN = re.compile(r"[!-~]+")
NEXT_STEP = (
    f"Set {PATH_VARIABLE} to a file with the cluster's token (on its head: 'ray get-auth-token'), "
    "mode 0600"
)


def find_token(environment: Mapping[str, str]) -> str | None:
    """Return the token that Ray's programs would use here; None where there is none.

    Args:
        environment: Variables; ``RAY_AUTH_TOKEN``, else the file of ``RAY_AUTH_TOKEN_PATH``, else
            ``~/.ray/auth_token``; none where ``RAY_AUTH_MODE`` is ``disabled``.

    Raises:
        UserError: The token's file cannot be read, is empty, or holds more than a token.
    """
    if environment.get(MODE_VARIABLE, "").lower() == "disabled":
        return None
    if token := environment.get(TOKEN_VARIABLE, "").strip():
        return _checked(token, TOKEN_VARIABLE)
    path = token_file(environment)
    return _read(path) if path else None


def token_file(environment: Mapping[str, str]) -> Path | None:
    """Return the file that `find_token` reads; None where it reads none."""
    is_off = environment.get(MODE_VARIABLE, "").lower() == "disabled"
    if is_off or environment.get(TOKEN_VARIABLE, "").strip():
        return None
    if named := environment.get(PATH_VARIABLE):
        return Path(os.path.expanduser(named))
    default = Path(os.path.expanduser(_DEFAULT))
    return default if os.path.lexists(default) else None


def open_to_others(environment: Mapping[str, str]) -> tuple[str, str]:
    """Return that other users may read or change the token's file, and what to do about it.

    Two empty texts where they may not, or where there is no file.
    """
    path = token_file(environment)
    try:
        mode = stat.S_IMODE(path.stat().st_mode) if path else 0
    except OSError:
        mode = 0  # who reads it says so
    if not mode & _OTHERS:
        return "", ""
    said = f"the token file {path} has mode {mode:04o}: other users may read or change it."
    return said, f"Run: chmod 600 {shlex.quote(str(path))}"


def _read(path: Path) -> str:
    place = f"{PATH_VARIABLE}: the token file {path}"
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UserError(f"{place} cannot be read: {reason}. {NEXT_STEP}.") from error
    if not token:
        raise UserError(f"{place} is empty. {NEXT_STEP}.")
    return _checked(token, place)


def _checked(token: str, place: str) -> str:
    """Refuse what cannot be sent as a header: libraries would repeat it in their error."""
    if _TOKEN.fullmatch(token):
        return token
    raise UserError(
        f"{place} holds more than a token: one word of plain characters is allowed. {NEXT_STEP}."
    )


def make_private_token(environment: Mapping[str, str]) -> None:
    """Make the user's token where a local Ray would, but readable by nobody else.

    Ray itself would write it with the permissions that the umask leaves.
    """
    mode = environment.get(MODE_VARIABLE, "token").lower()
    if mode != "token" or environment.get(TOKEN_VARIABLE) or environment.get(PATH_VARIABLE):
        return
    path = Path(os.path.expanduser(_DEFAULT))
    if os.path.lexists(path):
        return
    with contextlib.suppress(OSError):  # there is one now, or none can be: Ray says so
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as file:  # mode 0600
            file.write(secrets.token_hex(32))
            file.flush()
            os.link(file.name, path)  # whole at once: another run may read it this very moment


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine alone."""
    try:
        found = {item[4][0] for item in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):  # the latter where it is no name at all
        return False
    return bool(found) and all(
        ipaddress.ip_address(str(a).split("%")[0]).is_loopback for a in found
    )


def checked_url(address: str) -> str:
    """Return the URL of a cluster's dashboard, without a slash at its end.

    It is put together anew from its parts, so that who asks there reads it as it was checked.

    Raises:
        UserError: It is none.
    """
    if "@" in address:
        raise UserError(
            "--address holds credentials, which other users of this machine could read. Leave "
            f"them out. {NEXT_STEP}."
        )
    try:
        parts = urlsplit(address)
        is_url = parts.scheme in ("http", "https") and parts.port != 0
        is_url = is_url and _HOST.fullmatch(parts.hostname or "") is not None
    except ValueError:
        is_url = False
    if not is_url or parts.query or parts.fragment:
        raise UserError(
            f"--address is {masked(address)!r}, but must be the URL of the cluster's dashboard, "
            "such as http://head:8265."
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")


def require_token(url: str, token: str | None, is_insecure: bool) -> None:
    """Make sure that a cluster beyond this machine is asked with a token.

    Raises:
        UserError: There is none: whoever reaches that port could run programs there.
    """
    host = str(urlsplit(url).hostname)
    if token or is_insecure or is_loopback(host):
        return
    raise UserError(
        f"--address {url}: no token for a cluster beyond this machine. Without one, everybody who "
        f"reaches that port can run programs on it. {NEXT_STEP}; see docs/security.md. "
        "To submit without a token all the same, add --insecure."
    )
