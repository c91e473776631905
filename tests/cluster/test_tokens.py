"""Ray's token: found where Ray finds it, private, and demanded beyond this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.jobs import Jobs
from cluster.tokens import (
    checked_url,
    find_token,
    is_loopback,
    make_private_token,
    require_token,
)
from search_spaces.errors import UserError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_order_of_places(home: Path) -> None:
    """The variable, then the named file, then the user's; none where tokens are switched off."""
    assert find_token({}) is None
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("users\n")
    (home / "named").write_text("named\n")
    path = {"RAY_AUTH_TOKEN_PATH": str(home / "named")}
    assert find_token({}) == "users"
    assert find_token(path) == "named"
    assert find_token(path | {"RAY_AUTH_TOKEN": " given "}) == "given"
    assert find_token(path | {"RAY_AUTH_MODE": "disabled"}) is None


@pytest.mark.parametrize(("text", "said"), [(None, "cannot be read"), ("\n", "is empty")])
def test_useless_token_file(home: Path, text: str | None, said: str) -> None:
    """A file that was named must be there and hold a token."""
    if text is not None:
        (home / "named").write_text(text)
    with pytest.raises(UserError, match=rf"RAY_AUTH_TOKEN_PATH: .* {said}.*ray get-auth-token"):
        find_token({"RAY_AUTH_TOKEN_PATH": str(home / "named")})


def test_new_token_is_private(home: Path) -> None:
    """The token that a local Ray needs is readable by its user alone, and made once."""
    make_private_token({})
    path = home / ".ray" / "auth_token"
    token = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert len(token) == 64
    make_private_token({})
    assert path.read_text() == token


@pytest.mark.parametrize(
    "environment",
    [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "x"}, {"RAY_AUTH_TOKEN_PATH": "/x"}],
)
def test_no_token_is_made_where_one_is_named(home: Path, environment: dict[str, str]) -> None:
    """Who names a token, or wants none, gets none."""
    make_private_token(environment)
    assert not (home / ".ray").exists()


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("192.0.2.7", False), ("", False)],
)
def test_is_loopback(host: str, expected: bool) -> None:
    """Only addresses that nobody else reaches count."""
    assert is_loopback(host or "name.invalid") is expected


@pytest.mark.parametrize(
    "address", ["head:8265", "ray://head:10001", "http://", "http://h:x", "http://h:1/?a=b"]
)
def test_address_of_another_form(address: str) -> None:
    """Only a dashboard's URL will do."""
    with pytest.raises(UserError, match=r"--address is .*must be the URL.*http://head:8265"):
        checked_url(address)


def test_credentials_in_the_address() -> None:
    """Other users see the arguments of processes, so there must be none; nor are they repeated."""
    with pytest.raises(UserError, match="--address holds credentials") as caught:
        checked_url("http://me:pa55@head:8265")
    assert "pa55" not in str(caught.value)


def test_token_is_demanded_beyond_this_machine() -> None:
    """Without a token a cluster elsewhere is not even asked; loopback and --insecure are."""
    with pytest.raises(UserError, match=r"no token.*RAY_AUTH_TOKEN_PATH.*--insecure"):
        require_token("http://192.0.2.7:8265", None, False)
    require_token("http://192.0.2.7:8265", "token", False)
    require_token("http://192.0.2.7:8265", None, True)
    require_token("http://127.0.0.1:8265", None, False)


def test_jobs_ask_nobody_without_a_token(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal comes before any connection."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="no token for a cluster beyond this machine"):
        Jobs("http://192.0.2.7:8265")
