"""A small real trial function that does what the request's label says, ``action:argument``."""

from __future__ import annotations

import builtins
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from search_spaces.contracts import (
    Compute,
    Executor,
    FailureClass,
    ModelPlace,
    Outcome,
    Reporter,
    TaskPlace,
    TrialRequest,
    TrialResult,
)
from search_spaces.errors import UserError
from search_spaces.trial import Outputs
from tests.orchestrator.factories import make_result, make_trial
from workers import notice
from workers.failures import TrialFailure
from workers.ranks import RankEnv

ONE_RANK = Compute(num_ranks=1, num_threads=1)
TWO_RANKS = Compute(num_ranks=2, num_threads=1)
LONG_S = 60.0
_HELD: list[bytearray] = []


def make_request(label: str, seed: int = 0, compute: Compute = ONE_RANK) -> TrialRequest:
    """Return a request for the script ``label``; ``seed`` tells trials apart."""
    return TrialRequest(
        spec=make_trial(seed=seed).spec,
        label=label,
        attempt=f"attempt-{seed}-{label}",
        attempt_uri="unused",
        outputs=Outputs(),
        model=ModelPlace(folder="unused"),
        task=TaskPlace(name="toy", source={}, select={}),
        cache_folder="unused",
        compute=compute,
    )


def scripted_trial(request: TrialRequest, reporter: Reporter) -> TrialResult:
    """Act out the label; what the action returns travels as JSON in ``host``."""
    action, _, argument = request.label.partition(":")
    answer = ACTIONS[action](argument, reporter)
    result = make_result(make_trial(seed=request.spec.seed), request.attempt)
    return result.model_copy(update={"host": json.dumps(answer)})


def export_rank(env: RankEnv) -> None:
    """Tell a script its rank, without torch."""
    os.environ["RANK"] = str(env.rank)


def never_connect(env: RankEnv) -> None:
    """Be a process that starts but never joins its gang."""
    time.sleep(LONG_S)


def answer_of(outcome: Outcome) -> Any:
    """Return what the script's action returned."""
    assert outcome.__class__.__name__ == "Succeeded", outcome
    return json.loads(outcome.result.host)


def wait_all(executor: Executor, num_outcomes: int, timeout_s: float = LONG_S) -> list[Outcome]:
    """Return that many outcomes."""
    outcomes: list[Outcome] = []
    deadline_s = time.monotonic() + timeout_s
    while len(outcomes) < num_outcomes:
        assert time.monotonic() < deadline_s, f"only {outcomes} within {timeout_s} s"
        outcomes += executor.wait(timeout_s=0.2)
    return outcomes


def eventually(condition: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """Return the condition's first true value."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline_s, f"never true within {timeout_s} s"
        time.sleep(0.05)
    return value


def run(executor: Executor, label: str, compute: Compute = ONE_RANK) -> Outcome:
    """Run one script to its end."""
    executor.submit(make_request(label, compute=compute))
    return wait_all(executor, 1)[0]


def _return(argument: str, reporter: Reporter) -> str:
    return argument


def _raise(argument: str, reporter: Reporter) -> None:
    raise {"UserError": UserError}.get(argument) or getattr(builtins, argument)("scripted")


def _wait_for(argument: str, reporter: Reporter) -> dict[str, int]:
    """Leave ``<file>.pid`` and go on when ``file`` exists."""
    gate = Path(argument)
    gate.with_suffix(f".pid{os.environ.get('RANK', '')}").write_text(str(os.getpid()))
    reporter.phase("train")
    while not gate.exists():
        reporter.step(3, 10, 0.5)
        time.sleep(0.02)
    return {"pid": os.getpid()}


def _leave_at_notice(argument: str, reporter: Reporter) -> None:
    """Leave ``<file>.pid`` and work until told that the process will be taken away."""
    gate = Path(argument)
    gate.with_suffix(f".pid{os.environ.get('RANK', '')}").write_text(str(os.getpid()))
    reporter.phase("train")
    while not notice.is_given():
        reporter.step(3, 10, 0.5)
        time.sleep(0.02)
    raise TrialFailure(FailureClass.PREEMPTED, "left in good order")


def _stall(argument: str, reporter: Reporter) -> None:
    """Report one step, then none."""

    def asleep_in_the_work() -> None:
        time.sleep(float(argument or LONG_S))

    reporter.phase("train")
    reporter.step(3, 10, 0.5)
    asleep_in_the_work()


def _note(argument: str, reporter: Reporter) -> int:
    """Leave a line in a file as rank 0 begins, and take some seconds: ``file:line:seconds``."""
    file, line, seconds = argument.rsplit(":", 2)
    if os.environ["RANK"] == "0":
        with Path(file).open("a") as order:
            order.write(f"{line}\n")
    time.sleep(float(seconds))
    return os.getpid()


def _exit(argument: str, reporter: Reporter) -> None:
    """End the process of one rank; its peers wait as they would in an all-reduce."""
    if os.environ["RANK"] == argument:
        os._exit(7)
    time.sleep(LONG_S)


def _raise_in(argument: str, reporter: Reporter) -> None:
    """Raise in one rank; its peers wait as they would in an all-reduce."""
    if os.environ["RANK"] == argument:
        raise ArithmeticError("scripted")
    time.sleep(LONG_S)


def _hold(argument: str, reporter: Reporter) -> int:
    """Leak that many MiB."""
    _HELD.append(bytearray(int(argument) * 2**20))
    return os.getpid()


def _inspect(argument: str, reporter: Reporter) -> dict[str, Any]:
    import torch

    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM", "DS_ACCELERATOR")
    environment = {name: os.environ.get(name) for name in names}
    return {"environment": environment, "torch_threads": torch.get_num_threads()}


def _all_reduce(argument: str, reporter: Reporter) -> dict[str, Any]:
    """Sum rank + 1 over the ranks."""
    import torch
    import torch.distributed

    value = torch.tensor([torch.distributed.get_rank() + 1.0])
    torch.distributed.all_reduce(value)
    return {"sum": value.item(), "backend": torch.distributed.get_backend()}


ACTIONS: dict[str, Callable[[str, Reporter], Any]] = {
    "return": _return,
    "raise": _raise,
    "wait_for": _wait_for,
    "leave_at_notice": _leave_at_notice,
    "stall": _stall,
    "note": _note,
    "exit": _exit,
    "raise_in": _raise_in,
    "hold": _hold,
    "inspect": _inspect,
    "all_reduce": _all_reduce,
}
