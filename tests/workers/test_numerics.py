"""The numerics class of results: those of before are read, and are told from those of now."""

from __future__ import annotations

from search_spaces.contracts import NumericsClass
from tests.workers.numerics import NUMERICS


def test_a_gang_of_before_is_of_another_class_and_one_rank_is_not() -> None:
    """The field for the exchange came later: what lacks it is read as if it were empty."""
    written = NUMERICS.model_dump()
    del written["exchange"]
    before = NumericsClass.model_validate(written)
    assert before == NUMERICS and NUMERICS.difference(before) == ""
    now = NUMERICS.model_copy(update={"num_ranks": 2, "exchange": "fp32 to owners"})
    gang = before.model_copy(update={"num_ranks": 2})
    assert now.difference(gang) == "exchange 'fp32 to owners' instead of ''"
