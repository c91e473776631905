"""How sweeps share a cluster: the arithmetic, and what drivers read of each other."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from hypothesis import given
from hypothesis import strategies as st

from cluster.board import STALE_S, Board
from cluster.claims import Claim, allowances
from cluster.share import Share, Sharing
from tests.cluster.shared_table import Hands, SharedTable


def claim(driver: str, num_wanted: int, num_gangs: int = 2, **changes: float) -> Claim:
    """A claim on a cluster that has room for so many of its gangs."""
    base = Claim(driver, driver, 1.0, 1 / num_gangs, num_wanted, 0)
    return replace(base, **changes)  # type: ignore[arg-type]


@st.composite
def _claims(draw: st.DrawFn) -> list[Claim]:
    num = draw(st.integers(1, 6))
    return [
        Claim(
            driver=f"driver {index}",
            sweep="",
            priority=draw(st.sampled_from([0.5, 1.0, 2.0, 10.0])),
            gang_share=1 / draw(st.integers(1, 8)),
            num_wanted=draw(st.integers(0, 9)),
            num_held=draw(st.integers(0, 3)),
            served_s=draw(st.floats(0, 1e5)),
        )
        for index in range(num)
    ]


@given(_claims())
def test_seats_are_few_and_none_is_left_empty(claims: list[Claim]) -> None:
    """Nobody gets more than wanted, all together no more than there is, and no gang more fits."""
    counts = allowances(claims)
    used = sum(counts[one.driver] * one.gang_share for one in claims)
    assert used <= 1 + 1e-6
    for one in claims:
        assert counts[one.driver] <= one.num_wanted
        assert counts[one.driver] == one.num_wanted or used + one.gang_share > 1 - 1e-6


@given(_claims())
def test_nobody_has_two_seats_before_another_who_fits_has_one(claims: list[Claim]) -> None:
    """Weighted max-min: a seat is never given while one with less for its priority could have it.

    So a sweep with n gangs has, without its last, no more than any other that still wanted a seat
    of that size.
    """
    counts = allowances(claims)
    for one in claims:
        for other in claims:
            is_short = counts[other.driver] < other.num_wanted
            if is_short and counts[one.driver] and other.gang_share <= one.gang_share:
                before_last = (counts[one.driver] - 1) * one.gang_share / one.priority
                has = counts[other.driver] * other.gang_share / other.priority
                assert before_last <= has + 1e-6


@given(_claims(), st.randoms(use_true_random=False))
def test_every_driver_finds_the_same(claims: list[Claim], random: object) -> None:
    """The order in which claims are read does not matter, else two would take one seat."""
    shuffled = list(claims)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert allowances(shuffled) == allowances(claims)


def test_two_sweeps_halve_a_cluster_and_one_alone_has_it_all() -> None:
    assert allowances([claim("a", 2), claim("b", 2)]) == {"a": 1, "b": 1}
    assert allowances([claim("a", 2), claim("b", 0)]) == {"a": 2, "b": 0}
    many = [claim("a", 8, 8, priority=3), claim("b", 8, 8)]
    assert allowances(many) == {"a": 6, "b": 2}


def test_more_sweeps_than_seats_take_turns() -> None:
    """Who holds the seat keeps it for a turn, then who has been served less gets it."""
    first, second = claim("a", 1, 1, num_held=1), claim("b", 1, 1)
    assert allowances([first, second], turn_s=60) == {"a": 1, "b": 0}
    assert allowances([replace(first, served_s=59), second], turn_s=60)["a"] == 1
    after = [replace(first, served_s=60, num_held=0), second]
    assert allowances(after, turn_s=60) == {"a": 0, "b": 1}


def _pair() -> tuple[SharedTable, Hands, Board, Board]:
    table, clock = SharedTable(), Hands()
    return table, clock, Board(table, "a", clock), Board(table, "b", clock)


def test_drivers_read_each_other_and_not_themselves() -> None:
    _, _, one, other = _pair()
    one.tell(claim("a", 2))
    one.beat()
    other.beat()
    assert one.others == () and other.others == (claim("a", 2),)


def test_driver_that_died_is_forgotten() -> None:
    """A claim counts for as long as it is renewed, by the reader's clock, and is removed later."""
    table, clock, one, other = _pair()
    one.tell(claim("a", 2))
    one.beat()
    for now_s, is_seen in ((0.0, True), (STALE_S, True), (STALE_S + 1, False), (700.0, False)):
        clock.now_s = now_s
        other.beat()
        assert bool(other.others) is is_seen
    assert not table.content


def test_head_that_is_gone_means_no_sharing_and_nothing_else() -> None:
    """Claims vanish with the table, silence is counted, and all is well when it is back."""
    table, clock, one, other = _pair()
    one.tell(claim("a", 2))
    one.beat()
    other.beat()
    table.is_gone, clock.now_s = True, 7.0
    other.beat()
    clock.now_s = 14.0
    other.beat()
    assert other.others == () and other.silent_s == 7.0
    table.is_gone = False
    other.beat()
    assert other.others == (claim("a", 2),) and other.silent_s == 0.0


def test_table_that_refuses_is_not_a_head_that_is_silent() -> None:
    """Sharing may fail for good; the sweep goes on."""
    table, clock, one, _ = _pair()
    table.is_broken = True
    one.tell(claim("a", 2))
    for now_s in (0.0, 100.0, 200.0):
        clock.now_s = now_s
        one.beat()
        assert one.silent_s == 0.0 and one.others == ()


def test_rows_of_another_version_are_passed_over() -> None:
    table, _, one, _ = _pair()
    strange = [
        {"priority": float("nan")},
        {"priority": 0},
        {"gang_share": 1e-300},
        {"num_wanted": -1},
        {"num_wanted": "all"},
        {"served_s": None},
        {"served_s": float("inf")},
    ]
    rows = [{"beat": 1, **asdict(claim("x", 1)), **one} for one in strange]
    for row in (
        *(json.dumps(one).encode() for one in rows),
        b"",
        b"[]",
        b'"x"',
        b'{"beat": 1}',
        b'{"beat": "x"}',
        b"\xff",
    ):
        table.content[b"claims/x"] = row
        one.beat()
        assert one.others == () and one.silent_s == 0.0


def _share(table: SharedTable, clock: Hands, **changes: float) -> Share:
    return Share(table, Sharing(**changes), clock)  # type: ignore[arg-type]


def test_share_is_everything_until_another_waits() -> None:
    """Two sweeps on a cluster of two gangs: from two to one when the other comes, and back."""
    table, clock = SharedTable(), Hands()
    one, other = _share(table, clock), _share(table, clock)

    def beat() -> None:
        one.board.beat()
        other.board.beat()

    one.tell(2, 2, 2)
    beat()
    assert one.allowance(2, 2) == 2
    other.tell(2, 0, 2)
    beat()
    beat()
    assert (one.allowance(2, 2), other.allowance(2, 0)) == (1, 1)
    other.tell(0, 0, 2)
    beat()
    beat()
    assert one.allowance(2, 1) == 2


def test_idle_gangs_are_given_back_only_to_one_who_waits() -> None:
    table, clock = SharedTable(), Hands()
    one, other = _share(table, clock), _share(table, clock)
    for told, left in (((1, 1), 1), ((2, 1), 0)):
        one.tell(0, 1, 2)
        other.tell(*told, 2)
        other.board.beat()
        one.board.beat()
        assert one.allowance(2, 1) == left


def test_what_a_sweep_left_unused_is_not_saved_up() -> None:
    """One that comes late starts level with the others, not with the right to hours alone."""
    table, clock = SharedTable(), Hands()
    one, late = _share(table, clock), _share(table, clock)
    one.tell(2, 2, 2)
    clock.now_s = 3600.0
    one.tell(2, 2, 2)
    one.board.beat()
    late.board.beat()
    late.tell(1, 0, 2)
    late.board.beat()
    one.board.beat()
    [seen] = one.board.others
    assert seen.served_s == 3600.0


def test_nobody_gives_way_to_what_does_not_fit() -> None:
    """A sweep whose gangs lost their node, or wait for a new one, asks the others for nothing."""
    table, clock = SharedTable(), Hands()
    one, other = _share(table, clock), _share(table, clock)
    for room, left in ((0, 2), (2, 1)):
        one.tell(2, 2, 2)
        other.tell(2, 0, room)
        other.board.beat()
        one.board.beat()
        assert one.allowance(2, 2) == left


def test_gang_that_is_due_but_fits_nowhere_asks_for_more() -> None:
    """Others gave back what it is due, but scattered: in the end they clear the cluster for it.

    A gang of this one takes half the cluster, the others' a quarter; by its allowance it has one.
    """
    table, clock = SharedTable(), Hands()
    small, large = _share(table, clock, turn_s=60), _share(table, clock, turn_s=60)
    seen = []
    for minute in range(5):
        clock.now_s = 61.0 * minute
        small.tell(4, 2, 4)
        large.tell(1, 0, 2)
        for one in (small, large, small):
            one.board.beat()
        seen.append(small.allowance(4, 2))
    assert seen[0] == 2 and 0 in seen
    large.tell(1, 1, 2)
    large.tell(1, 1, 2)
    large.board.beat()
    small.board.beat()
    assert small.allowance(4, 0) == 2
