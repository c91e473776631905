"""Verdicts on one level: the five rules, and what stops them."""

import json
import random
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.verdicts import DEFAULT_RULE, RULES, LevelScores, judge, judge_level
from tests.orchestrator.levels import level, seeded

TABLE2 = json.loads((Path(__file__).parent / "data" / "chen2020_table2.json").read_text())
STD_RULES = ("subnetwork_std", "full_std", "overlap", "strict")
CENTS = st.integers(0, 1000).map(lambda x: Decimal(x) / 1000)
LAW = settings(deadline=None)  # the first quantile loads scipy, and the machine may be busy


def five_runs(mean: str, std: str) -> list[Decimal]:
    """Return five runs whose mean and sample deviation are exactly the printed ones."""
    m, s = Decimal(mean), Decimal(std)
    return [m - s, m - s, m, m + s, m + s]


def accepted(rule: str) -> set[str]:
    return {
        cell["task"]
        for cell in TABLE2["tasks"]
        if judge(
            rule,
            five_runs(cell["ticket_mean"], cell["ticket_std"]),
            five_runs(cell["full_mean"], cell["full_std"]),
            Decimal(1),
        )
    }


def test_published_cells_need_the_deviation_of_the_subnetwork() -> None:
    """Table 2's eleven cells all pass with the ticket's deviation, four fail with the dense one.

    QQP, STS-B and MLM pass `subnetwork_std` by exact equality.
    """
    tasks = {cell["task"] for cell in TABLE2["tasks"]}
    assert len(tasks) == 11
    assert accepted("subnetwork_std") == accepted("overlap") == tasks
    assert tasks - accepted("full_std") == {"MRPC", "SST-2", "CoLA", "MLM"}
    assert accepted("strict") == {"MNLI", "WNLI"}


def test_default_rule_is_noninferiority() -> None:
    """The rule with a known error rate is the default."""
    assert DEFAULT_RULE == "noninferior" == RULES[0]


@LAW
@given(st.lists(st.tuples(CENTS, CENTS), min_size=2, max_size=6))
def test_stricter_rules_imply_laxer_ones(pairs: list[tuple[Decimal, Decimal]]) -> None:
    """strict => subnetwork_std => overlap and strict => full_std => overlap."""
    ticket, dense = [t for t, _ in pairs], [d for _, d in pairs]
    verdict = {rule: judge(rule, ticket, dense, Decimal(0)) for rule in STD_RULES}
    assert not verdict["strict"] or (verdict["subnetwork_std"] and verdict["full_std"])
    assert not (verdict["subnetwork_std"] or verdict["full_std"]) or verdict["overlap"]


@LAW
@given(st.lists(st.tuples(CENTS, CENTS), min_size=3, max_size=6), CENTS)
def test_noninferiority_at_no_margin_implies_strict(
    pairs: list[tuple[Decimal, Decimal]], delta: Decimal
) -> None:
    """With delta 0 it asks for more than equal means; a wider margin never rejects more."""
    ticket, dense = [t for t, _ in pairs], [d for _, d in pairs]
    none, some = (judge("noninferior", ticket, dense, margin) for margin in (Decimal(0), delta))
    assert not none or (judge("strict", ticket, dense, Decimal(0)) and some)


@LAW
@given(
    st.lists(st.tuples(CENTS, CENTS), min_size=3, max_size=6),
    CENTS,
    st.randoms(),
    st.integers(-9, 9),
)
def test_verdicts_depend_only_on_differences_and_spreads(
    pairs: list[tuple[Decimal, Decimal]], delta: Decimal, rng: random.Random, shift: int
) -> None:
    """Adding a constant to both sides or renaming the seeds changes no outcome."""
    dense, ticket = [d for _, d in pairs], [t for t, _ in pairs]
    before = judge_level(level(0.5, ticket, dense), delta)
    shifted = judge_level(
        level(0.5, [t + shift for t in ticket], [d + shift for d in dense]), delta
    )
    order = list(range(7, 7 + len(pairs)))
    rng.shuffle(order)
    renamed = LevelScores(
        0.5, 500, dict(zip(order, ticket, strict=True)), dict(zip(order, dense, strict=True))
    )
    assert before.outcomes == shifted.outcomes == judge_level(renamed, delta).outcomes
    assert before.difference_mean == shifted.difference_mean


def test_rules_by_hand() -> None:
    """Ticket .88 +- .01, dense .90 +- .01: one deviation short of either, and intervals touch."""
    ticket = [Decimal(x) for x in ("0.87", "0.88", "0.89")]
    dense = [Decimal(x) for x in ("0.89", "0.90", "0.91")]
    verdict = judge_level(level(0.7, ticket, dense), 0.03)
    assert (verdict.n, verdict.num_removed, verdict.sparsity) == (3, 700, 0.7)
    assert (verdict.ticket_mean, verdict.ticket_std) == (Decimal("0.88"), Decimal("0.01"))
    assert (verdict.dense_mean, verdict.dense_std) == (Decimal("0.9"), Decimal("0.01"))
    assert verdict.difference_mean == Decimal("-0.02")
    assert verdict.difference_lower_bound == -0.02
    assert verdict.difference_interval == (-0.02, -0.02)
    assert verdict.noninferior_pvalue == 0.0
    assert verdict.flags == ()
    assert verdict.outcomes == {
        "noninferior": "matching",
        "subnetwork_std": "not_matching",
        "full_std": "not_matching",
        "overlap": "matching",
        "strict": "not_matching",
    }
    assert verdict.reasons == {
        "noninferior": "upper bound of the loss 0.02 < delta 0.03",
        "subnetwork_std": "dense mean 0.9 > ticket mean + std 0.89",
        "full_std": "dense mean - std 0.89 > ticket mean 0.88",
        "overlap": "dense mean - std 0.89 = ticket mean + std 0.89",
        "strict": "dense mean 0.9 > ticket mean 0.88",
    }


def test_noninferiority_pairs_on_the_seed() -> None:
    """The same scores pass where they move together and fail where they move apart."""
    dense = [0.80, 0.85, 0.90]
    assert judge("noninferior", [0.80, 0.85, 0.90], dense, 0.01) is True
    assert judge("noninferior", [0.90, 0.85, 0.80], dense, 0.01) is False


def test_three_seeds_of_usual_spread_do_not_pass_one_point() -> None:
    """Losses of 0, 0.005 and 0.01 average half of delta, but their bound is 0.0134."""
    verdict = judge_level(level(0.5, [0.9, 0.895, 0.89], [0.9, 0.9, 0.9]), 0.01)
    assert verdict.outcomes["noninferior"] == "not_matching"
    assert verdict.reasons["noninferior"] == "upper bound of the loss 0.01343 > delta 0.01"
    assert verdict.difference_lower_bound == pytest.approx(-0.01343, abs=5e-6)
    assert verdict.difference_interval == pytest.approx((-0.01742, 0.00742), abs=5e-6)


@pytest.mark.parametrize("rule", STD_RULES)
def test_equality_matches_and_a_hair_less_does_not(rule: str) -> None:
    """The tie is exact in Decimal, and the last of 25 digits breaks it."""
    ticket, dense = [Decimal("0.8"), Decimal("0.9")], [Decimal("0.8"), Decimal("0.9")]
    spread = Decimal("0.1") / Decimal(2).sqrt()
    slack = {"strict": Decimal(0), "overlap": 2 * spread}.get(rule, spread)
    hair = Decimal("1e-25")
    assert judge(rule, ticket, [d + slack - hair for d in dense], 0.0) is True
    assert judge(rule, ticket, [d + slack + hair for d in dense], 0.0) is False
    assert judge("strict", ticket, dense, 0.0) is True


@pytest.mark.parametrize(
    ("dense", "shown"), [(0.9000133333333333, "0.90001333"), (0.9000000001, "0.9000000001")]
)
def test_reason_shows_the_digits_that_decide(dense: float, shown: str) -> None:
    """A difference in the tenth digit is not printed as 0.9 > 0.9, nor one in the fifth in full."""
    verdict = judge_level(level(0.5, [0.9, 0.9], [dense, dense]), 0.01)
    assert verdict.reasons["strict"] == f"dense mean {shown} > ticket mean 0.9"


def test_too_few_seeds_get_no_verdict() -> None:
    """Two seeds allow the rules on deviations but not noninferiority; one allows none."""
    two = judge_level(level(0.5, [0.9, 0.8], [0.9, 0.8]), 0.01)
    assert two.outcomes["noninferior"] == "no_verdict"
    assert two.reasons["noninferior"] == "noninferior needs 3 seeds, has 2"
    assert two.difference_lower_bound is two.difference_interval is two.noninferior_pvalue is None
    assert {two.outcomes[rule] for rule in STD_RULES} == {"matching"}
    one = judge_level(level(0.5, [0.9], [0.8]), 0.01)
    assert set(one.outcomes.values()) == {"no_verdict"}
    assert one.reasons["strict"] == "a verdict needs 2 seeds, has 1"
    assert (one.n, one.ticket_mean, one.ticket_std) == (1, 0.9, None)
    assert set(judge_level(level(0.5, [], []), 0.01).outcomes.values()) == {"no_verdict"}
    assert judge("noninferior", [0.9, 0.9], [0.9, 0.9], 0.01) is None
    assert judge("strict", [0.9], [0.9], 0.01) is None


@pytest.mark.parametrize("failure", [None, float("nan"), float("-inf")])
def test_a_failed_seed_leaves_every_rule_undecided(failure: float | None) -> None:
    """The seeds that are left would match, but the diverged one is not dropped."""
    for ticket, dense in (
        ([0.9, 0.9, 0.9, failure], [0.8, 0.8, 0.8, 0.8]),
        ([0.9, 0.9, 0.9, 0.9], [0.8, 0.8, 0.8, failure]),
    ):
        verdict = judge_level(level(0.5, ticket, dense), 0.01)
        assert set(verdict.outcomes.values()) == {"undecided"}
        assert verdict.reasons["strict"] == "no score for seed 3: failed or not run"
        assert (verdict.n, verdict.difference_mean) == (3, None)
        assert (verdict.ticket_mean is None) != (verdict.dense_mean is None)


def test_unequal_seed_sets_get_no_verdict() -> None:
    """Seeds 0-2 against 1-3 share two, but nothing is judged on the overlap."""
    scores = LevelScores(0.5, 500, {0: 0.9, 1: 0.9, 2: 0.9}, {1: 0.8, 2: 0.8, 3: 0.8})
    verdict = judge_level(scores, 0.01)
    assert set(verdict.outcomes.values()) == {"no_verdict"}
    assert verdict.reasons["overlap"] == "only one side has a trial for seed 0, 3"
    assert (verdict.n, verdict.difference_mean) == (2, None)


def test_unknown_rules_and_unpaired_lists_are_refused() -> None:
    """The message lists the rules; lists of different length cannot pair."""
    with pytest.raises(ValueError, match="unknown rule 'best': use one of noninferior, subnet"):
        judge("best", [0.9, 0.9], [0.9, 0.9], 0.01)
    with pytest.raises(ValueError, match="2 ticket scores against 3 dense scores"):
        judge("strict", [0.9, 0.9], [0.9, 0.9, 0.9], 0.01)


def test_flags() -> None:
    """Each flag is raised at its own threshold and not just before it."""
    dense = [Decimal(x) for x in ("0.89", "0.90", "0.91")]  # deviation 0.01

    def flags(ticket: Sequence[str], **more: object) -> tuple[str, ...]:
        scores: Mapping[int, Decimal | None] = {i: Decimal(x) for i, x in enumerate(ticket)}
        made = LevelScores(0.5, 500, scores, seeded(dense), **more)  # type: ignore[arg-type]
        return judge_level(made, 0.01).flags

    assert flags(["0.87", "0.90", "0.93"]) == ()
    assert flags(["0.869", "0.90", "0.931"]) == ("noisy",)
    assert flags(["0.9", "0.9", "0.9"]) == ("noisy",)
    calm = ["0.89", "0.90", "0.91"]
    assert flags(calm, report_size=101) == ()
    assert flags(calm, report_size=100) == ("dev_noise",)
    every = {"degenerate": 1, "collapsed": ("pooler",), "mixed_numerics": True, "not_theta0": True}
    assert flags(calm, **every) == (
        "degenerate",
        "collapsed",
        "mixed_numerics",
        "not_theta0",
    )
