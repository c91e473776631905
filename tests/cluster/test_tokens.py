"""Ray's token: found where Ray finds it, private, and demanded beyond this machine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("\n", "is empty"),
        ("pa55word\n# of the head", "holds more than a token"),
        ("pa55w\u00f6rd", "holds more than a token"),
    ],
    ids=["absent", "empty", "lines", "letters"],
)
def test_useless_token_file(home: Path, text: str | None, said: str) -> None:
    """A file that was named must be there and hold a token, which is not repeated."""
    if text is not None:
        (home / "named").write_text(text)
    with pytest.raises(
        UserError, match=rf"RAY_AUTH_TOKEN_PATH: .* {said}.*ray get-auth-token"
    ) as caught:
        find_token({"RAY_AUTH_TOKEN_PATH": str(home / "named")})
    assert "pa55" not in str(caught.value)


def test_useless_token_in_the_variable() -> None:
    """It would break the header that it is sent in, and be repeated in that error."""
    with pytest.raises(UserError, match=r"^RAY_AUTH_TOKEN holds more than a token") as caught:
        find_token({"RAY_AUTH_TOKEN": "pa55\r\nX-Other: header"})
    assert "pa55" not in str(caught.value)


def test_users_file_that_cannot_be_read(home: Path) -> None:
    """What stands where the user's token should be is not passed over in silence."""
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").symlink_to(home / "nowhere")
    with pytest.raises(UserError, match=r"auth_token cannot be read: No such file"):
        find_token({})


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
    assert list(path.parent.iterdir()) == [path]


def test_new_token_is_whole(home: Path) -> None:
    """Of many runs that begin at once, each sees the one token and never half of it."""
    path = home / ".ray" / "auth_token"

    def begin(_: int) -> str:
        make_private_token({})
        return path.read_text()

    with ThreadPoolExecutor(8) as pool:
        seen = set(pool.map(begin, range(64)))
    assert len(seen) == 1 and len(seen.pop()) == 64


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
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("192.0.2.7", False),
        ("0.0.0.0", False),
        ("", False),
        ("a..b", False),
        ("x" * 64, False),
    ],
)
def test_is_loopback(host: str, expected: bool) -> None:
    """Only addresses that nobody else reaches count."""
    assert is_loopback(host or "name.invalid") is expected


@pytest.mark.parametrize(
    "address",
    [
        "head:8265",
        "ray://head:10001",
        "http://",
        "http://h:x",
        "http://h:1/?a=b",
        "http://[::1",
        "http://a b:1",
        "http://h\\evil:1",
    ],
)
def test_address_of_another_form(address: str) -> None:
    """Only a dashboard's URL will do."""
    with pytest.raises(UserError, match=r"--address is .*must be the URL.*http://head:8265"):
        checked_url(address)


@pytest.mark.parametrize(
    "address", ["http://me:pa55@head:8265", "http://me:pa55@head:port", "me:pa55@head", "http://@h"]
)
def test_credentials_in_the_address(address: str) -> None:
    """Other users see the arguments of processes, so there must be none; nor are they repeated."""
    with pytest.raises(UserError, match="--address holds credentials") as caught:
        checked_url(address)
    assert "pa55" not in str(caught.value)


def test_secret_in_the_query_is_not_repeated() -> None:
    """A dashboard's URL has no options; a token among them would lie in the terminal's record."""
    with pytest.raises(UserError, match=r"--address is 'http://h:1/\?token=\*\*\*'"):
        checked_url("http://h:1/?token=pa55")


@pytest.mark.parametrize("address", ["HTTP://head:1/", " http://head:1", "http://he\nad:1\n"])
def test_address_is_put_in_order(address: str) -> None:
    """Ray's client reads the very address that was checked."""
    assert checked_url(address) == "http://head:1"


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
