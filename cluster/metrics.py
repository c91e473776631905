"""Numbers of a running sweep for Ray's metrics endpoints, which Prometheus reads.

Series are told apart by state, kind or failure class alone, never by trial: their number does not
grow with a sweep. Ray puts ``ray_`` before each name, and ``_total`` behind a counter's.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge


class SweepMetrics:
    """The metrics of one sweep; Ray must be connected.

    Args:
        sweep: Name of the sweep: the one tag that all series have.
    """

    def __init__(self, sweep: str) -> None:
        self._tags = {"sweep": sweep}
        self._states = _gauge("tickets_trials", "Trials by state.", "state")
        self._running = _gauge("tickets_running", "Running attempts by kind of trial.", "kind")
        self._tokens = _gauge("tickets_tokens_per_s", "Training tokens a second of one gang.")
        self._waiting = _gauge(
            "tickets_waiting_seconds", "Longest wait of a submitted attempt for resources, now."
        )
        self._lag = _gauge("tickets_mirror_lag", "Committed results that MLflow does not have yet.")
        self._retries = Counter(
            "tickets_retries", "Attempts tried again by class of failure.", ("sweep", "failure")
        )

    def states(self, counts: Mapping[str, int]) -> None:
        """Show the number of trials in each state; give all states, for old values stay."""
        for state, number in counts.items():
            self._states.set(number, {**self._tags, "state": state})

    def running(self, counts: Mapping[str, int]) -> None:
        """Show the number of running attempts of each kind; zeros too, for old values stay."""
        for kind, number in counts.items():
            self._running.set(number, {**self._tags, "kind": kind})

    def tokens_per_s(self, value: float) -> None:
        """Show the speed of training."""
        self._tokens.set(value, self._tags)

    def waiting_s(self, value: float) -> None:
        """Show for how long the attempt that waits longest has waited; 0 when none does."""
        self._waiting.set(value, self._tags)

    def mirror_lag(self, number: int) -> None:
        """Show how far MLflow is behind."""
        self._lag.set(number, self._tags)

    def retry(self, failure: str) -> None:
        """Count an attempt that is tried again."""
        self._retries.inc(1, {**self._tags, "failure": failure})


def _gauge(name: str, description: str, *tags: str) -> Gauge:
    return Gauge(name, description, ("sweep", *tags))
