"""Submits a sweep again when its driver was lost: the store knows how far it had come."""

from __future__ import annotations

from collections.abc import Callable

from cluster.job_state import JobState
from search_spaces.errors import LostError, UserError

MAX_PAUSE_S = 300.0
_TRIES = 30  # of a head that answers, but starts no job yet
_RETRY_S = 20.0
_NO_PROGRAM = ": no such interpreter there, see --python"
_SAID = {
    126: _NO_PROGRAM,
    127: _NO_PROGRAM,
    143: ": told to end by SIGTERM",
    LostError.exit_code: ": cluster or store lost",
}


def supervise(
    submit: Callable[[int], str],
    follow: Callable[[str], JobState],
    say: Callable[[str], None],
    sleep: Callable[[float], None],
    max_again: int,
    pause_s: float = 5.0,
) -> JobState:
    """Follow a job to its end; submit it again where a machine failed, not the sweep.

    Args:
        submit: Starts the n-th job, counted from 0, and returns its id.
        follow: Waits for a job's end.
        say: Told what is done about it.
        sleep: Waits for some seconds.
        max_again: How often it is submitted again at most.
        pause_s: Before the first time; doubled with each, up to five minutes.

    Returns:
        How the last job ended.

    Raises:
        UserError: The first submission is refused, or a later one for ten minutes.
    """
    for number in range(max_again + 1):
        state = follow(_submitted(submit, number, say, sleep))
        if not state.is_infrastructure:
            return state
        why = f"Job {state.job_id}: its driver was lost ({reason(state)})"
        if number == max_again:
            say(f"{why}, and it was submitted again {max_again} time(s) already: giving up.")
            break
        wait_s = min(pause_s * 2**number, MAX_PAUSE_S)
        say(f"{why}. Submitting it again in {wait_s:g} s; what is committed is reused.")
        sleep(wait_s)
    return state


def _submitted(
    submit: Callable[[int], str],
    number: int,
    say: Callable[[str], None],
    sleep: Callable[[float], None],
) -> str:
    """Start the n-th job; a head that was started again answers before it can run anything."""
    for attempt in range(_TRIES if number else 0):
        try:
            return submit(number)
        except UserError as error:
            if not attempt:
                say(f"It cannot be submitted yet: {error} Trying for {_TRIES * _RETRY_S:g} s.")
            sleep(_RETRY_S)
    return submit(number)


def reason(state: JobState) -> str:
    """Return in a few words why a job has ended."""
    code = state.driver_exit_code
    if code is not None and code < 0:
        return f"signal {-code}"
    if code is not None:
        return f"exit code {code}{_SAID.get(code, '')}"
    return (state.message.strip().splitlines() or [state.status])[0].rstrip(".")
