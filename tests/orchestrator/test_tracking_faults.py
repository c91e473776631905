"""What goes wrong with MLflow: lost servers, strange ones, deleted experiments, lost files."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from orchestrator.queries import best, lineage, sweeps
from orchestrator.tracking import MlflowTracker
from orchestrator.tracking_client import _probe, explained, first_line, open_client
from search_spaces.errors import UserError
from search_spaces.places import masked
from tests.orchestrator.factories import make_lineage
from tests.orchestrator.mirrored import committed_lineage, log
from tests.orchestrator.small_worlds import small_world


def test_credentials_are_never_shown() -> None:
    """Neither those before the host nor those among the options, nor in errors that repeat them."""
    secret = "postgresql://ann:s3/cr@t@db.example/runs?sslmode=require&password=s3cr@t"
    for text in (masked(secret), first_line(MlflowException(f"no route to {secret}\nmore"))):
        assert "s3" not in text and "cr@t" not in text
    assert masked("http://host:5000/x") == "http://host:5000/x"
    assert masked("postgresql://ann:s3cret@db/runs") == "postgresql://***@db/runs"
    with pytest.raises(UserError, match=r"'bogus://\*\*\*@host', but must begin") as caught:
        open_client("bogus://ann:s3cret@host")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MlflowException("no such run\nat line 3"), "failed: no such run. See that it runs"),
        (OperationalError("select", {}, Exception("closed")), "failed: .*closed"),
        (ConnectionResetError(), "failed: ConnectionResetError. See"),
    ],
)
def test_whatever_a_client_raises_is_explained(error: Exception, said: str) -> None:
    with pytest.raises(UserError, match=said), explained("sqlite:///m.db"):
        raise error


def test_errors_of_libraries_that_keep_files_are_explained_and_mistakes_are_not() -> None:
    """MLflow lets pass what boto3 raises, and that it is not installed."""
    library = type("NoCredentialsError", (Exception,), {"__module__": "botocore.exceptions"})
    for error in (library("Unable to locate credentials"), ImportError("No module named 'boto3'")):
        said = rf"MLflow at 'sqlite:///m.db' failed: {error}\. See that it runs"
        with pytest.raises(UserError, match=said), explained("sqlite:///m.db"):
            raise error
    for error in (KeyError("key"), UserError("no room.")):
        with pytest.raises(type(error)) as told, explained("sqlite:///m.db"):
            raise error
        assert told.value is error


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that gives everybody the same answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_server_of_something_else_is_refused() -> None:
    """Also what does not speak HTTP is answered with the next step."""
    with (
        answering(b"SSH-2.0-OpenSSH_9.6\r\n") as uri,
        pytest.raises(UserError, match=r"does not answer: .*SSH.*Start the server"),
    ):
        open_client(uri)


def test_a_server_whose_certificate_is_not_known_has_answered(tmp_path: Path) -> None:
    """Whether it is trusted is for MLflow's client, which has variables for it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own_certificate(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                context.wrap_socket(server.accept()[0], server_side=True).close()

        threading.Thread(target=serve, daemon=True).start()
        _probe(f"https://localhost:{server.getsockname()[1]}", 60)


def own_certificate(folder: Path) -> Path:
    """Return a file with a key and the certificate that it signed for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path = folder / "own.pem"
    signed = made.sign(key, hashes.SHA256()).public_bytes(pem)
    path.write_bytes(key.private_bytes(pem, *plain) + signed)
    return path


def test_an_impossible_host_is_refused() -> None:
    with pytest.raises(UserError, match=r"'http://my host:5000' does not answer"):
        open_client("http://my host:5000")


def test_a_deleted_experiment_is_named_with_both_ways_out(uri: str) -> None:
    """MLflow keeps the name of what was deleted; runs, reports and questions say what to do."""
    tracker = MlflowTracker(uri, "gone", "small", "hash")
    client = MlflowClient(uri)
    found = client.get_experiment_by_name("gone")
    client.delete_experiment(found.experiment_id)
    said = rf"'gone' at .* was deleted.*restore --experiment-id {found.experiment_id}'.*another"
    with pytest.raises(UserError, match=said):
        MlflowTracker(uri, "gone", "small", "hash")
    with pytest.raises(UserError, match=said):
        best(uri, "gone")
    with pytest.raises(UserError, match=r"MLflow at .* failed: .*must be in the 'active' state"):
        log(tracker, small_world())


def test_a_database_that_breaks_between_calls_is_no_traceback(uri: str, tmp_path: Path) -> None:
    """Every method of the tracker, and every question, ends with one sentence."""
    open_client(uri)  # makes the database: copying it is quicker than making another
    path, trial = tmp_path / "m.db", make_lineage()[0]
    shutil.copy(uri.removeprefix("sqlite:///"), path)
    uri = f"sqlite:///{path}"
    tracker = MlflowTracker(uri, "broken", "small", "hash")
    path.write_bytes(b"this is not a database" * 1000)
    page = tmp_path / "report.html"
    page.write_text("")
    calls: list[Callable[[], object]] = [
        lambda: tracker.mirror(trial, small_world()[1].popitem()[1]),
        lambda: log(tracker, small_world()),
        lambda: tracker.finish(True),
        lambda: tracker.log_report([page]),
    ]
    for call in calls:
        with pytest.raises(UserError, match=r"MLflow at 'sqlite:.*' failed: .*not a database"):
            call()
    with pytest.raises(UserError, match=r"does not answer: .*not a database"):
        best(uri, "broken")


def test_a_report_is_exactly_its_files(uri: str, tmp_path: Path) -> None:
    """What else lies in the folder stays there."""
    for name in ("report.html", "curve.png", "diary.txt"):
        (tmp_path / name).write_text(name)
    tracker = MlflowTracker(uri, "report", "small", "hash")
    tracker.log_report([tmp_path / "report.html", tmp_path / "curve.png"])
    (parent,) = sweeps(uri, "report")
    items = MlflowClient(uri).list_artifacts(parent.run_id, "report")
    assert {item.path for item in items} == {"report/report.html", "report/curve.png"}


def test_several_runs_of_one_trial_are_one_trial(uri: str, tmp_path: Path) -> None:
    """The newest finished run tells the lineage; more characters would help nobody."""
    store, trials, _ = committed_lineage(tmp_path)
    MlflowTracker(uri, "copies", "small", "hash").catch_up(trials, store)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("copies").experiment_id
    for start_time, status in ((1, "FINISHED"), (2**41, "RUNNING")):
        copy = client.create_run(experiment, start_time, {"trial_key": trials[2].key})
        client.update_run(copy.info.run_id, status)
    rows = lineage(uri, "copies", trials[2].key)
    assert [row.trial_key for row in rows] == [trial.key for trial in reversed(trials)]


def test_a_lost_lineage_is_named_with_its_remedy(uri: str, tmp_path: Path) -> None:
    """Artifacts that somebody deleted come back when their run is made again."""
    store, trials, _ = committed_lineage(tmp_path)
    MlflowTracker(uri, "lost", "small", "hash").catch_up(trials, store)
    client = MlflowClient(uri)
    place = client.get_experiment_by_name("lost").artifact_location
    shutil.rmtree(Path(place.removeprefix("file://")))
    with pytest.raises(UserError, match=r"has no lineage.json. Delete that run .* repeat") as told:
        lineage(uri, "lost", trials[0].key)
    client.delete_run(str(told.value).split("MLflow run ")[1].split()[0])
    MlflowTracker(uri, "lost", "small", "hash").catch_up(trials, store)
    assert len(lineage(uri, "lost", trials[0].key)) == 1
