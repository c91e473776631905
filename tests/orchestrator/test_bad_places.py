"""A server, database, store or journal that cannot be used is told, and left as it is."""

from __future__ import annotations

import socket

import pytest

from orchestrator.tracking_client import open_client
from tests.orchestrator.bad_sweeps import Tickets, good_sweep


def closed_port() -> int:
    """Return a port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_an_mlflow_server_that_is_down_stops_the_run_before_it_starts(tickets: Tickets) -> None:
    """The URI and the way out are named, before anything is trained or written."""
    sweep = good_sweep(tickets.root)
    sweep["tracking"]["uri"] = uri = f"http://127.0.0.1:{closed_port()}"
    said = tickets.refused("run", tickets.write(sweep))
    assert "tracking.uri" in said and uri in said and "sqlite:///mlflow.db" in said
    assert not (tickets.root / "store").exists()


@pytest.mark.parametrize("uri", ["mlruns", "file:mlruns"])
def test_a_folder_as_tracking_uri_is_refused(tickets: Tickets, uri: str) -> None:
    """MLflow 3 keeps no runs in folders: the message says what to write instead."""
    sweep = good_sweep(tickets.root)
    sweep["tracking"]["uri"] = uri
    said = tickets.refused("run", tickets.write(sweep))
    assert "tracking.uri" in said and f"'{uri}' is a folder" in said
    assert "sqlite:///mlflow.db" in said
    assert not (tickets.root / "store").exists() and not (tickets.root / "mlruns").exists()


def test_a_database_that_is_none_is_named(tickets: Tickets) -> None:
    """A file that is no SQLite database is one sentence, and stays as it is."""
    sweep = good_sweep(tickets.root)
    (tickets.root / "mlflow.db").write_bytes(b"something else entirely" * 10)
    said = tickets.refused("run", tickets.write(sweep))
    assert "tracking.uri" in said and "mlflow.db" in said
    assert (tickets.root / "mlflow.db").read_bytes().startswith(b"something else")


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_file_as_store_is_refused_and_kept(tickets: Tickets, command: str) -> None:
    """The place is named, and the file that lies there is not touched."""
    sweep = good_sweep(tickets.root)
    (tickets.root / "store").write_text("precious")
    said = tickets.refused(command, tickets.write(sweep))
    assert f"{tickets.root}/store" in said and "it is a file" in said and "'store'" in said
    assert (tickets.root / "store").read_text() == "precious"


def test_a_store_where_nobody_may_write_is_refused(tickets: Tickets) -> None:
    """The run says so before it starts Ray."""
    sweep = good_sweep(tickets.root)
    sweep["store"] = "/proc/tickets"
    said = tickets.refused("run", tickets.write(sweep))
    assert "/proc/tickets cannot be written" in said and "'store'" in said


def test_a_damaged_journal_says_that_it_can_be_rebuilt(tickets: Tickets) -> None:
    """Status names the journal and what the next run does with it, and leaves the file as it is."""
    path = tickets.write(good_sweep(tickets.root))
    journal = tickets.root / "store" / "journals" / "toy.sqlite"
    journal.parent.mkdir(parents=True)
    journal.write_bytes(b"no database at all" * 100)
    said = tickets.refused("status", path)
    assert str(journal) in said and "moves it aside and rebuilds it from the store" in said
    assert journal.read_bytes().startswith(b"no database")
    assert not (tickets.root / "store" / "results").exists()


def test_an_unknown_key_says_where_keys_are_listed(tickets: Tickets) -> None:
    """A key that no trial has, or that many trials have, is one sentence."""
    path = tickets.write(good_sweep(tickets.root))
    said = tickets.refused("explain-key", path, "zzz")
    assert "key 'zzz'" in said and "no trial" in said and "tickets plan" in said
    said = tickets.refused("explain-key", path, "")
    assert "trials" in said and "tickets plan" in said


def test_reading_makes_no_database(tickets: Tickets, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question to a database that is not there is told so, and leaves nothing behind."""
    monkeypatch.setenv("HOME", str(tickets.root))
    place = tickets.root / "other.db"
    assert f"no database {place}" in tickets.refused("best", "--uri", "sqlite:///~/other.db")
    for command in (("best",), ("registry",), ("card", "models:/tickets-a-b@s50")):
        said = tickets.refused(*command, "--uri", f"sqlite:///{place}")
        assert f"no database {place}" in said and "Run a sweep" in said, command
        assert not place.exists()


def test_best_names_the_experiments_that_there_are(tickets: Tickets) -> None:
    """An unknown experiment, and a rule that is none, are one sentence each."""
    uri = f"sqlite:///{tickets.root}/mlflow.db"
    open_client(uri)
    said = tickets.refused("best", "--uri", uri, "--experiment", "toi")
    assert "experiment 'toi'" in said and uri in said and "Default" in said
    said = tickets.refused("best", "--uri", uri, "--rule", "lucky")
    assert "rule 'lucky'" in said and "noninferior" in said
