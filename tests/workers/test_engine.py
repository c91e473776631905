"""A warm engine, rewound in place, trains every trial as a fresh one does: bit for bit."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search_spaces.contracts import Compute, SilentReporter, TrialRequest, TrialResult
from search_spaces.errors import SpecError
from search_spaces.models import ModelFacts
from search_spaces.resolve import TaskFacts
from search_spaces.trial import (
    CARRY_ARTIFACT,
    MaskSource,
    Outputs,
    PruneOutput,
    RandomMask,
    Theta0Mask,
)
from tests.workers.requests import facts, make_model, request
from tests.workers.running import ProcessGang, artifact_ref, losses_of
from workers.engine import NUM_WARM, Engines
from workers.failures import TrialFailure
from workers.ranks import RankEnv, connect, disconnect
from workers.trial import TrialRunner

K = 1000
OUTPUTS = Outputs(prunes=(PruneOutput(pruner="global-magnitude", num_removed=2 * K),), carry=True)
OF_PROCESS = {"seconds", "peak_memory_gib", "started_at"}
DROPOUT = {"hidden_dropout": 0.2, "attention_dropout": 0.1}
# What may differ from one trial on an engine to the next: masks, seeds, recipes, data.
TRIALS: tuple[tuple[MaskSource | None, dict[str, Any]], ...] = (
    (None, {}),
    (RandomMask(num_removed=K, seed=3), DROPOUT),
    (RandomMask(num_removed=2 * K, seed=4), {"seed": 2, "weight_decay": 0.0}),
    (None, {"weight_decay": 0.0, "train_steps": 5}),
    (Theta0Mask(num_removed=K), {"batch_size": 8, **DROPOUT}),
    (Theta0Mask(num_removed=2 * K), {"learning_rate": 1e-4, "max_grad_norm": 0.0}),
    (RandomMask(num_removed=K, seed=3), {"sampler": "length-bucketed", "train_steps": 12}),
    (None, {"head": "carry", "seed": 3}),
    (RandomMask(num_removed=10, seed=1), {"rng": "continue", "warmup_steps": 0, **DROPOUT}),
    (None, {"compute": Compute(micro_batch_size=4), **DROPOUT}),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module")
def toys(root: Path) -> list[tuple[ModelFacts, TaskFacts]]:
    """Two tasks of one head shape, and one of another."""
    many, few = facts(root, num_train=70), facts(root / "few", num_train=50)
    scored = facts(root / "scored", problem="regression", label="score", metric="pearson")
    return [many, (many[0], few[1]), (many[0], scored[1])]


@pytest.fixture(scope="module", autouse=True)
def group() -> Any:
    connect(RankEnv())
    yield
    disconnect()


def wanted(root: Path, toys: Any, number: int, attempt: str, **more: Any) -> TrialRequest:
    """Return one of the mixed trials; odd ones are of the second task."""
    mask, changes = TRIALS[number]
    lengths = {"lr_horizon_steps": 20, "train_steps": 8} | changes | more
    made = request(
        root,
        *toys[number % 2],
        mask=mask,
        outputs=OUTPUTS,
        attempt=f"{attempt}-{number}",
        **lengths,
    )
    if not {"head", "rng"} & changes.keys():
        return made
    parent = wanted(root, toys, 0, attempt)
    spec = made.spec.model_copy(update={"carry_from": parent.spec.key})
    result = TrialRunner()(parent, SilentReporter())
    ref = artifact_ref(parent, result, CARRY_ARTIFACT)
    return made.model_copy(update={"spec": spec, "carry_file": ref})


def bits(result: TrialResult) -> dict[str, Any]:
    """Return all that a trial came to, but for its attempt and its clock."""
    return result.model_dump(exclude=OF_PROCESS | {"attempt"})


def test_ten_mixed_trials_on_a_warm_engine_equal_fresh_ones(root: Path, toys: Any) -> None:
    """Masks, seeds, recipes, samplers, dropout, heads and data change from trial to trial."""
    warm = TrialRunner()
    for number in range(len(TRIALS)):
        mine = wanted(root, toys, number, "warm")
        fresh = TrialRunner()(wanted(root, toys, number, "fresh"), SilentReporter())
        assert bits(warm(mine, SilentReporter())) == bits(fresh), number


@pytest.mark.slow
def test_ten_mixed_trials_on_a_warm_engine_equal_fresh_processes(root: Path, toys: Any) -> None:
    """The same against a process for each trial, which has run nothing before; one is in bf16."""
    changes: dict[int, dict[str, Any]] = {6: {"dtype": "bf16"}}
    with ProcessGang(1) as warm:
        for first in range(0, len(TRIALS), 2):
            with ProcessGang(1) as one, ProcessGang(1) as other:  # they import side by side
                for number, fresh in ((first, one), (first + 1, other)):
                    more = changes.get(number, {})
                    alone = fresh.run(wanted(root, toys, number, "alone", **more))[0]
                    together = warm.run(wanted(root, toys, number, "together", **more))[0]
                    assert bits(together) == bits(alone), number


def test_a_failed_trial_leaves_nothing_behind(root: Path, toys: Any) -> None:
    """After a divergence the next trial equals a fresh one."""
    warm, silent = TrialRunner(), SilentReporter()
    diverging = request(root, *toys[0], learning_rate=1e38, max_grad_norm=0.0, attempt="bad")
    warm(wanted(root, toys, 1, "before"), silent)
    with pytest.raises(TrialFailure, match="loss is nan"):
        warm(diverging, silent)
    after = warm(wanted(root, toys, 2, "after"), silent)
    assert bits(after) == bits(TrialRunner()(wanted(root, toys, 2, "clean"), silent))


def test_other_weights_are_refused(root: Path, toys: Any) -> None:
    """A folder that another node sees otherwise trains nothing under the planned trial's key."""
    made = request(root, *toys[0])
    planned = made.spec.model.model_copy(update={"theta0_sha256": "0" * 64})
    spec = made.spec.model_copy(update={"model": planned})
    with pytest.raises(SpecError, match=r"holds theta_0 \w{10}, but .* planned with 0000000000"):
        Engines().engine(made.model_copy(update={"spec": spec}))


def write_in_place(file: Path, data: bytes) -> None:
    """Overwrite a file as ``rsync --inplace`` does, with the time that it had."""
    before = file.stat()
    with file.open("r+b") as stream:
        stream.write(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(file: Path, data: bytes) -> None:
    """Put another file into the place of one, as whole copies are published."""
    copy = file.with_suffix(".partial")
    copy.write_bytes(data)
    copy.replace(file)


@pytest.mark.parametrize("write", [write_in_place, replace])
def test_a_warm_engine_refuses_files_that_were_overwritten(
    tmp_path: Path, write: Callable[[Path, bytes], None]
) -> None:
    """As a fresh one does; where the same weights are written again, it goes on as before."""
    toy = facts(tmp_path)
    file = Path(toy[0].place.folder) / "model.safetensors"
    planned = file.read_bytes()
    other = (make_model(tmp_path / "other", seed=99) / "model.safetensors").read_bytes()
    assert len(other) == len(planned)
    warm, silent = TrialRunner(), SilentReporter()
    clean = warm(request(tmp_path, *toy, seed=2), silent)
    write(file, other)
    changed = r"holds theta_0 \w{10}, but the trial was planned with \w{10}: the files changed"
    for runner in (warm, warm, TrialRunner()):
        with pytest.raises(SpecError, match=changed):
            runner(request(tmp_path, *toy, seed=2), silent)
    write(file, planned)
    engines = Engines()
    for runner in (warm, warm):
        again = request(tmp_path, *toy, seed=2, attempt="a002-00000002")
        assert bits(runner(again, silent)) == bits(clean)
        write(file, planned)
    engine = engines.engine(again)
    write(file, planned)
    assert engines.engine(again) is engine


def test_an_engine_serves_one_shape_and_few_are_kept(root: Path, toys: Any) -> None:
    """Another task of the same head shape shares it; a head, dtype or layout has its own."""
    engines = Engines()
    first = engines.engine(request(root, *toys[0]))
    assert engines.engine(request(root, *toys[1], learning_rate=1e-5)) is first
    others = [
        request(root, *toys[2]),
        request(root, *toys[0], dtype="bf16"),
        request(root, *toys[0], compute=Compute(layout="padded")),
    ]
    found = [engines.engine(other) for other in others]
    assert len({id(engine) for engine in (first, *found)}) == 4
    assert NUM_WARM == 2
    assert engines.engine(others[1]) is found[1]
    assert engines.engine(others[2]) is found[2]
    assert engines.engine(request(root, *toys[0])) is not first


@pytest.mark.slow
def test_memory_is_flat_over_a_hundred_trials(root: Path, toys: Any) -> None:
    """Resident memory after trial 100 is within 2% of that after trial 20, masks differing."""
    with ProcessGang(1) as gang:
        held = []
        for number in range(100):
            mask = RandomMask(num_removed=K + number, seed=number)
            trial = request(root, *toys[number % 2], mask=mask, seed=number, attempt=f"m-{number}")
            assert losses_of(gang.run(trial)[0])
            held.append(gang.resident_bytes()[0])
    assert held[-1] <= 1.02 * held[19], (held[19], held[-1])
