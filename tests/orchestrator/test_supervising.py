"""A sweep is submitted again where a machine failed, and only there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.job_state import JobState, Printed
from orchestrator.supervising import reason, supervise
from search_spaces.errors import UserError

KILLED = JobState("j", "FAILED", -9)
ENDS = {
    "well": JobState("j", "SUCCEEDED", 0),
    "trials failed": JobState("j", "FAILED", 1),
    "bad input": JobState("j", "FAILED", 2),
    "stopped": JobState("j", "FAILED", 130),
    "job stopped": JobState("j", "STOPPED"),
    "job stopped, by SIGTERM": JobState("j", "STOPPED", 143),
    "told to end": JobState("j", "FAILED", 143),
    "killed": KILLED,
    "out of memory": JobState("j", "FAILED", 137),
    "no interpreter": JobState("j", "FAILED", 127),
    "no program": JobState("j", "FAILED", 126),
    "supervisor died": JobState("j", "FAILED", None, "The actor died.\nmore"),
    "head is new": JobState("j", "LOST"),
    "store lost": JobState("j", "FAILED", 75),
}
AGAIN = {"told to end", "killed", "out of memory", "supervisor died", "head is new", "store lost"}


def test_what_is_submitted_again() -> None:
    """A run's own exit codes are ends, but that for a lost store; all else is a machine's fault."""
    assert {name for name, end in ENDS.items() if end.is_infrastructure} == AGAIN


def test_exit_codes() -> None:
    """The follower exits as the run did, a signal counted as by a shell."""
    codes = {name: end.exit_code for name, end in ENDS.items()}
    expected = {"well": 0, "trials failed": 1, "bad input": 2, "stopped": 130, "job stopped": 130}
    assert codes == {
        **expected,
        "job stopped, by SIGTERM": 130,
        "told to end": 143,
        "no interpreter": 127,
        "no program": 126,
        "killed": 137,
        "out of memory": 137,
        "supervisor died": 1,
        "head is new": 1,
        "store lost": 75,
    }


@given(st.lists(st.sampled_from(sorted(ENDS)), min_size=9, max_size=9), st.integers(0, 8))
def test_bounded_and_in_order(names: list[str], max_again: int) -> None:
    """It ends with the first end of the run's own, or when its patience is over; pauses grow."""
    sent: list[int] = []
    said: list[str] = []
    pauses: list[float] = []

    def submit(number: int) -> str:
        sent.append(number)
        return f"j{number}"

    def follow(job_id: str) -> JobState:
        return ENDS[names[int(job_id[1:])]]

    end = supervise(submit, follow, said.append, pauses.append, max_again)
    lost = [name in AGAIN for name in names[: max_again + 1]]
    num_sent = lost.index(False) + 1 if False in lost else max_again + 1
    assert sent == list(range(num_sent))
    assert end == ENDS[names[num_sent - 1]]
    assert pauses == sorted(pauses) and len(pauses) == num_sent - 1
    assert sum("giving up" in text for text in said) == (False not in lost)


def test_reasons_are_said() -> None:
    """People are told by what the driver was lost."""
    said: list[str] = []
    ends = iter([KILLED, ENDS["supervisor died"], ENDS["well"]])
    supervise(lambda n: "j", lambda j: next(ends), said.append, lambda s: None, 3)
    assert "see --python" in reason(ENDS["no interpreter"])
    assert reason(ENDS["told to end"]) == "exit code 143: told to end by SIGTERM"
    assert reason(ENDS["store lost"]) == "exit code 75: cluster or store lost"
    assert "(signal 9)" in said[0] and "(The actor died)" in said[1]


def test_head_that_starts_no_job_yet() -> None:
    """A head that is new is tried again, but not for ever; the first submission not at all."""
    sent: list[int] = []
    said: list[str] = []
    pauses: list[float] = []

    def submit(number: int) -> str:
        sent.append(number)
        if number and len(sent) < 4:
            raise UserError("No available agent.")
        return "j"

    ends = iter([ENDS["head is new"], ENDS["well"]])
    assert supervise(submit, lambda j: next(ends), said.append, pauses.append, 1).exit_code == 0
    assert sent == [0, 1, 1, 1] and pauses == [5, 20, 20]
    assert "cannot be submitted yet: No available agent." in said[-1] and len(said) == 2

    def refuse(number: int) -> str:
        sent.append(number)
        if number or len(sent) == 1:
            raise UserError("never")
        return "j"

    sent.clear()
    with pytest.raises(UserError, match="never"):
        supervise(refuse, lambda j: KILLED, said.append, pauses.append, 1)
    assert sent == [0]
    with pytest.raises(UserError, match="never"):
        supervise(refuse, lambda j: KILLED, said.append, pauses.append, 1)
    assert len(sent) == 33


@given(st.text(max_size=30), st.lists(st.integers(0, 30), max_size=5), st.integers(1, 7))
def test_text_is_printed_once(whole: str, breaks: list[int], size: int) -> None:
    """However often the connection breaks, every character is passed on once and in order."""
    got: list[str] = []
    printed = Printed(got.append)
    for end in breaks:
        printed.begin()
        for at in range(0, min(end, len(whole)), size):
            printed.take(whole[at : min(at + size, end)])
    printed.rest(whole)
    assert "".join(got) == whole
