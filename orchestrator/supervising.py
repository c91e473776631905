"""Submits a sweep again when its driver was lost: the store knows how far it had come."""

from __future__ import annotations

from collections.abc import Callable

from cluster.job_state import JobState

MAX_PAUSE_S = 300.0


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
    """
    for number in range(max_again + 1):
        state = follow(submit(number))
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


def reason(state: JobState) -> str:
    """Return in a few words why a job has ended."""
    code = state.driver_exit_code
    if code is not None and code < 0:
        return f"signal {-code}"
    if code is not None:
        return f"exit code {code}"
    return (state.message.strip().splitlines() or [state.status])[0].rstrip(".")
