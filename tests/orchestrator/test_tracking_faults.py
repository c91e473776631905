"""What goes wrong with MLflow: stale verdicts, lost servers, slow ones, deleted experiments."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
import time
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

from orchestrator import tracking_verdicts as verdicts
from orchestrator.judging import judge_sweep
from orchestrator.queries import best, lineage, sweeps
from orchestrator.store import Store
from orchestrator.tracking import MlflowTracker
from orchestrator.tracking_client import _probe, explained, first_line, open_client
from orchestrator.tracking_listener import TrackingListener
from search_spaces.contracts import Failed, FailureClass, TrialResult
from search_spaces.errors import UserError
from search_spaces.places import masked
from search_spaces.sweep import SweepSpec
from search_spaces.trial import Trial
from tests.orchestrator.factories import make_lineage
from tests.orchestrator.test_judging import make_sweep, scored, small_world
from tests.orchestrator.test_tracking import committed_lineage, outcome, runs_of

World = tuple[list[Trial], dict[str, TrialResult]]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for the tests of this file that leave it whole."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def winning_world() -> World:
    """The small world, but the tickets at 20% match too."""
    trials, results = small_world()
    for trial in trials:
        if trial.kind == "final":
            seed = trial.roles[0].seed
            results[trial.key] = scored(trial, 0.8 + seed / 100, 0.7 + seed / 100)
    return trials, results


def without_level(world: World, num_removed: int) -> World:
    trials, results = world
    kept = [trial for trial in trials if trial.spec.num_removed != num_removed]
    return kept, {trial.key: results[trial.key] for trial in kept}


def log(tracker: MlflowTracker, world: World, spec: SweepSpec | None = None) -> None:
    judged = judge_sweep(spec or make_sweep(), *world)
    tracker.log_verdicts(judged, "noninferior", "lineage")


def sparsities(uri: str, experiment: str) -> list[float]:
    return [ticket.sparsity for ticket in best(uri, experiment)]


@pytest.mark.parametrize("new_hash", ["before", "after"])
def test_a_dropped_level_is_withdrawn(uri: str, new_hash: str) -> None:
    """Best names no ticket that the sweep no longer has; what was measured stays readable."""
    name = f"dropped {new_hash}"
    log(MlflowTracker(uri, name, "small", "before"), winning_world())
    assert sparsities(uri, name) == [0.2]
    log(MlflowTracker(uri, name, "small", new_hash), without_level(winning_world(), 200))
    assert sparsities(uri, name) == [0.1]
    old = runs_of(uri, name, "tags.kind = 'verdict' and tags.superseded = 'true'")
    assert {run.data.tags["contiguous"] for run in old} == {"false"}
    assert 0.2 in {run.data.metrics["sparsity"] for run in old}


def test_two_sweeps_of_one_name_keep_their_own_verdicts(uri: str) -> None:
    """Nobody's runs are overwritten; best shows what was logged last, also when that is again A."""
    first, second = (MlflowTracker(uri, "people", "small", one) for one in ("a", "b"))
    log(first, winning_world())
    log(second, small_world())
    assert sparsities(uri, "people") == [0.1]
    condition = "tags.kind = 'verdict' and tags.rule = 'strict' and tags.sweep_hash = '{}'"
    scores = {
        one: [r.data.metrics["ticket_mean"] for r in runs_of(uri, "people", condition.format(one))]
        for one in ("a", "b")
    }
    assert sorted(scores["a"]) == pytest.approx([0.82, 0.82])
    assert sorted(scores["b"]) == pytest.approx([0.52, 0.82])
    log(first, winning_world())
    assert sparsities(uri, "people") == [0.2]
    assert len(runs_of(uri, "people", "tags.kind = 'verdict'")) == 2 * 2 * 5


def test_sweeps_of_two_names_with_the_same_trials_are_two(uri: str) -> None:
    """Each has its parent run and its tickets."""
    for name in ("one", "other"):
        log(MlflowTracker(uri, "names", name, "same"), small_world())
    assert {row.name for row in sweeps(uri, "names")} == {"one", "other"}
    assert {ticket.sweep for ticket in best(uri, "names")} == {"one", "other"}


def test_a_dropped_control_leaves_no_trace(uri: str) -> None:
    """A verdict run says what is computed now, and nothing of a control that is gone."""
    tracker = MlflowTracker(uri, "controls", "small", "hash")
    log(tracker, small_world(), make_sweep(controls=["random-uniform"]))
    (run, *_) = runs_of(uri, "controls", "tags.kind = 'verdict'")
    assert "beats.random-uniform" in run.data.tags
    log(tracker, small_world())
    runs = runs_of(uri, "controls", "tags.kind = 'verdict'")
    assert len(runs) == 2 * 5
    assert not [name for run in runs for name in run.data.tags if name.startswith("beats.")]
    assert not [name for run in runs for name in run.data.metrics if name.startswith("over.")]


def test_a_level_that_turned_undecided_has_no_mean(uri: str) -> None:
    """Numbers of a level with a missing seed are those that can be computed without it."""
    tracker, (trials, results) = MlflowTracker(uri, "turned", "small", "hash"), small_world()
    log(tracker, (trials, results))
    lost = next(t for t in trials if t.kind == "final" and t.spec.num_removed == 100)
    log(tracker, (trials, {key: r for key, r in results.items() if key != lost.key}))
    condition = "tags.kind = 'verdict' and tags.rule = 'strict' and metrics.num_removed = 100"
    (run,) = runs_of(uri, "turned", condition)
    assert run.data.tags["outcome"] == "undecided"
    assert {"difference", "ticket_mean", "report.ticket_mean"}.isdisjoint(run.data.metrics)


def test_a_verdict_that_still_holds_stays_the_same_run(uri: str) -> None:
    """Logging again what is there writes nothing, also beside tags that people added."""
    tracker = MlflowTracker(uri, "same", "small", "hash")
    log(tracker, small_world())
    before = runs_of(uri, "same", "tags.kind = 'verdict'")
    MlflowClient(uri).set_tag(before[0].info.run_id, "reviewed", "yes")
    MlflowClient(uri).log_metric(before[0].info.run_id, "mine", 1.0)
    log(tracker, small_world())
    after = runs_of(uri, "same", "tags.kind = 'verdict'")
    assert {run.info.run_id for run in after} == {run.info.run_id for run in before}


@pytest.mark.slow
def test_what_people_wrote_on_a_verdict_outlives_a_change_of_it(uri: str) -> None:
    """The run goes, since MLflow cannot take back a metric; the new one has their tags."""
    tracker = MlflowTracker(uri, "words", "small", "hash")
    log(tracker, small_world())
    asked = "tags.kind = 'verdict' and tags.rule = 'strict' and metrics.num_removed = 200"
    (old,) = runs_of(uri, "words", asked)
    for name in ("reviewed", "mlflow.note.content"):
        MlflowClient(uri).set_tag(old.info.run_id, name, "yes")
    log(tracker, winning_world())
    (new,) = runs_of(uri, "words", asked)
    assert new.info.run_id != old.info.run_id
    assert new.data.tags["reviewed"] == new.data.tags["mlflow.note.content"] == "yes"
    assert new.data.tags["outcome"] == "matching" != old.data.tags["outcome"]


def test_a_half_written_verdict_is_no_ticket_and_is_written_anew(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between making a verdict's run and its numbers leaves nothing that best reads."""
    tracker = MlflowTracker(uri, "half", "small", "hash")
    with monkeypatch.context() as patch:
        patch.setattr(verdicts, "log_rows", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            log(tracker, winning_world())
    assert len(runs_of(uri, "half", "tags.kind = 'verdict'")) == 1
    assert best(uri, "half") == []
    log(tracker, winning_world())
    assert sparsities(uri, "half") == [0.2]
    assert len(runs_of(uri, "half", "tags.kind = 'verdict'")) == 2 * 5


def test_best_leaves_out_what_another_version_wrote(
    uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A verdict run without a tag that a ticket needs is counted, and hides no other."""
    log(MlflowTracker(uri, "older", "small", "hash"), small_world())
    strict = "tags.kind = 'verdict' and tags.contiguous = 'true' and tags.rule = 'strict'"
    (run,) = runs_of(uri, "older", strict)
    MlflowClient(uri).delete_tag(run.info.run_id, "replicate")
    assert sparsities(uri, "older") == [0.1]
    assert "1 verdict runs of experiment 'older' were written by another version" in caplog.text


def test_sixty_percent_is_met_to_half_a_weight(uri: str) -> None:
    """Of 10,616,832 weights 60% are 6,370,099.2, so that many is a share just below 0.6."""
    trials, results = small_world()
    kept, num_prunable = list[Trial](), 10_616_832
    for trial in trials:
        if trial.spec.num_removed in (0, 100) and trial.kind != "control":
            model = trial.spec.model.model_copy(update={"num_prunable": num_prunable})
            changes: dict[str, object] = {"model": model}
            if trial.spec.mask is not None:
                count = {"num_removed": 6_370_099}
                changes["mask"] = trial.spec.mask.model_copy(update=count)
            new = trial.model_copy(update={"spec": trial.spec.model_copy(update=changes)})
            results[new.key] = results[trial.key]
            kept.append(new)
    log(MlflowTracker(uri, "sixty", "small", "hash"), (kept, results))
    (ticket,) = best(uri, "sixty", min_sparsity=0.6)
    assert ticket.sparsity < 0.6
    assert best(uri, "sixty", min_sparsity=6_370_100 / num_prunable) == []


@pytest.mark.parametrize("wrong", [-0.1, 1.0, 60.0, float("nan")])
def test_a_sparsity_is_a_fraction(uri: str, wrong: float) -> None:
    with pytest.raises(UserError, match=r"min_sparsity .* is not allowed. Use a fraction"):
        best(uri, "any", min_sparsity=wrong)


def test_credentials_are_never_shown() -> None:
    """Neither those before the host nor those among the options, nor in errors that repeat them."""
    secret = "postgresql://ann:s3/cr@t@db.example/runs?sslmode=require&password=s3cr@t"
    for text in (masked(secret), first_line(MlflowException(f"no route to {secret}\nmore"))):
        assert "s3" not in text and "cr@t" not in text
    assert masked("http://host:5000/x") == "http://host:5000/x"
    assert masked("postgresql://ann:s3cret@db/runs") == "postgresql://***@db/runs"
    with pytest.raises(UserError, match=r"'bogus://\*\*\*@host' does not answer") as caught:
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


class Broken:
    """A tracker's mirror that fails for some keys, or for a while; else it is the real one."""

    def __init__(self, tracker: MlflowTracker, fails: set[str], pause_s: float = 0) -> None:
        self._mirror, self.fails, self._pause_s = tracker.mirror, fails, pause_s

    def __call__(self, trial: Trial, result: TrialResult, store: Store | None = None) -> str:
        time.sleep(self._pause_s)
        if trial.key in self.fails:
            raise UserError(f"no room for {trial.key[:4]}.")
        return self._mirror(trial, result, store)


def listening(
    uri: str, name: str, store: Store, fails: set[str], pause_s: float = 0
) -> tuple[TrackingListener, list[str]]:
    tracker, said = MlflowTracker(uri, name, "small", "hash"), list[str]()
    tracker.mirror = Broken(tracker, fails, pause_s)  # type: ignore[method-assign]
    return TrackingListener(tracker, make_sweep(), store, said.append, pause_s=0), said


def wait_until(holds: Callable[[], object], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)


def test_one_failure_does_not_end_the_live_mirror(uri: str, tmp_path: Path) -> None:
    """After a pause the next trial is mirrored while the sweep runs, and it is said once."""
    store, trials, results = committed_lineage(tmp_path)
    listener, said = listening(uri, "again", store, {trials[0].key, trials[1].key})
    for trial, result in zip(trials, results, strict=True):
        listener.succeeded(trial, result)
    wait_until(lambda: runs_of(uri, "again", "tags.kind = 'round'"))
    (run,) = runs_of(uri, "again", "tags.kind = 'round'")
    assert run.data.tags["trial_key"] == trials[2].key
    assert len(said) == 1 and "no room" in said[0] and "The sweep goes on" in said[0]
    listener.finished(outcome(3))
    assert not listener.close(30)


def test_one_trial_that_cannot_be_mirrored_holds_up_nothing(uri: str, tmp_path: Path) -> None:
    """All others and the verdicts are there; close says that something is missing."""
    trials, results = small_world()
    listener, said = listening(uri, "poison", Store(str(tmp_path)), {trials[0].key})
    for trial in trials:
        listener.succeeded(trial, results[trial.key])
    listener.finished(outcome(len(trials)))
    assert not listener.close(30)
    assert len(runs_of(uri, "poison", "tags.trial_key != ''")) == len(trials) - 1
    assert sparsities(uri, "poison") == [0.1]
    assert len(said) == 2


def test_close_waits_as_long_as_runs_are_written(uri: str, tmp_path: Path) -> None:
    """Five trials of half a second each take longer than the wait for any one of them."""
    trials, results = small_world()
    listener, _ = listening(uri, "slow", Store(str(tmp_path)), set(), pause_s=0.5)
    for trial in trials[:5]:
        listener.succeeded(trial, results[trial.key])
    listener.finished(outcome(5))
    assert listener.close(2.0)


def test_close_gives_up_when_nothing_is_written(uri: str, tmp_path: Path) -> None:
    trials, results = small_world()
    listener, _ = listening(uri, "stuck", Store(str(tmp_path)), set(), pause_s=5)
    listener.succeeded(trials[0], results[trials[0].key])
    started = time.monotonic()
    assert not listener.close(0.2)
    assert time.monotonic() - started < 3


def test_a_trial_that_could_not_start_makes_its_level_undecided(uri: str, tmp_path: Path) -> None:
    """A final trial that failed before its first attempt is no gap in the curve."""
    trials, results = small_world()
    listener, _ = listening(uri, "unstarted", Store(str(tmp_path)), set())
    for trial in trials:
        if trial.kind == "final" and trial.spec.num_removed == 200:
            failed = Failed(
                trial_key=trial.key, attempt="a1", failure=FailureClass.USER_ERROR, message="no"
            )
            listener.failed(trial, failed, will_retry=False)
        else:
            listener.succeeded(trial, results[trial.key])
    listener.finished(outcome(len(trials)))
    assert listener.close(30)
    condition = "tags.outcome = 'undecided' and tags.rule = 'strict'"
    assert [run.data.metrics["sparsity"] for run in runs_of(uri, "unstarted", condition)] == [0.2]
