"""How often each verdict rule passes a ticket of a known true loss: the rates in docs/method.md.

python -m benchmarks.rule_rates
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

from orchestrator.rules import CONFIDENCE

NUM_COMPARISONS = 400_000
LOSSES = (0.0, 1.0, 2.0)  # in deviations of a score over seeds
Scores = npt.NDArray[np.float64]


def passes(rule: str, ticket: Scores, dense: Scores, delta: float) -> npt.NDArray[np.bool_]:
    """Return which comparisons match, as ``orchestrator.rules.judge`` says of each.

    Args:
        rule: Its name.
        ticket: Scores, shape (comparisons, seeds).
        dense: Likewise, at the same seeds.
        delta: Of ``noninferior``.
    """
    m_t, m_d = ticket.mean(axis=1), dense.mean(axis=1)
    s_t, s_d = ticket.std(axis=1, ddof=1), dense.std(axis=1, ddof=1)
    if rule == "noninferior":
        losses, num = dense - ticket, ticket.shape[1]
        error = losses.std(axis=1, ddof=1) / np.sqrt(num)
        bound: Scores = losses.mean(axis=1) + stats.t.ppf(CONFIDENCE, num - 1) * error
        return bound <= delta
    sides = {
        "subnetwork_std": (m_t + s_t, m_d),
        "full_std": (m_t, m_d - s_d),
        "overlap": (m_t + s_t, m_d - s_d),
        "strict": (m_t, m_d),
    }
    have, need = sides[rule]
    passes: npt.NDArray[np.bool_] = have >= need
    return passes


def rate(rule: str, num_seeds: int, loss: float, delta: float, num: int, seed: int = 0) -> float:
    """Return the share of simulated comparisons that match; scores have a deviation of 1."""
    draw = np.random.default_rng(seed)
    ticket = draw.normal(-loss, 1.0, (num, num_seeds))
    dense = draw.normal(0.0, 1.0, (num, num_seeds))
    return float(passes(rule, ticket, dense, delta).mean())


def table(num: int = NUM_COMPARISONS) -> list[tuple[str, list[float]]]:
    """Return each row of the page's table: n = 3 at each loss, then n = 5."""
    rows = [("noninferior, delta = 1 sigma", "noninferior", 1.0)]
    rows += [("noninferior, delta = 2 sigma", "noninferior", 2.0)]
    rows += [(rule, rule, 0.0) for rule in ("subnetwork_std", "full_std", "overlap", "strict")]
    return [
        (label, [rate(rule, n, loss, delta, num) for n in (3, 5) for loss in LOSSES])
        for label, rule, delta in rows
    ]


if __name__ == "__main__":
    for label, rates in table():
        print(f"{label:30}", *(f"{value:.3f}" for value in rates))
    sigma, delta = 0.006, 0.01
    for n in (3, 5):
        found = rate("noninferior", n, 0.0, delta / sigma, NUM_COMPARISONS)
        print(f"noninferior, sigma {sigma}, delta {delta}, n = {n}, no loss: {found:.3f}")
