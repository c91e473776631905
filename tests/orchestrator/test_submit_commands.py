"""What is refused before anything is sent, as a user sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli import main


@pytest.fixture(autouse=True)
def _no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def _refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> str:
    monkeypatch.setattr("sys.argv", ["tickets", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and out == "" and "Traceback" not in err
    return err


@pytest.mark.parametrize("command", ["submit", "status", "stop", "logs"])
def test_no_token_beyond_this_machine(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command with an address asks for a token first; not even the sweep is read."""
    said = _refused(
        monkeypatch, capsys, command, "absent.yaml", "--address", "http://192.0.2.7:8265"
    )
    assert "no token for a cluster beyond this machine" in said and "--insecure" in said


def test_insecure_is_loud(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who goes on without a token is warned, whatever comes then."""
    arguments = ("submit", "absent.yaml", "--insecure", "--address", "http://127.0.0.1:1")
    said = _refused(monkeypatch, capsys, *arguments)
    assert said.startswith("WARNING: --insecure: a cluster without a token runs whatever")
    assert "no Ray dashboard answers" in said


def test_open_token_file_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who submits with a token that others may read learns how to close its file."""
    path = tmp_path / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("0" * 64)
    arguments = ("submit", "absent.yaml", "--address", "http://127.0.0.1:1")
    path.chmod(0o644)
    assert _refused(monkeypatch, capsys, *arguments).startswith(
        f"WARNING: the token file {path} has mode 0644: other users may read or change it. "
        f"Run: chmod 600 {path}\n"
    )
    path.chmod(0o600)
    assert "WARNING" not in _refused(monkeypatch, capsys, *arguments)


def test_json_is_not_for_followers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Output of a sweep and JSON for programs do not mix."""
    arguments = ("submit", "s.yaml", "--json", "--follow", "--address", "http://127.0.0.1:1")
    assert "--json tells the job's id; leave out --follow" in _refused(
        monkeypatch, capsys, *arguments
    )


@pytest.mark.parametrize("arguments", [(), ("--follow",), ("dense:toy:s1", "--follow")])
def test_logs_need_a_trial_or_an_address(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a cluster there is no job whose output could be followed."""
    said = _refused(monkeypatch, capsys, "logs", "s.yaml", *arguments)
    assert said.startswith("tickets logs s.yaml: name one trial") and "--address" in said
