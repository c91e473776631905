"""Trials of a sweep by key: equal ones are merged, their roles and outputs united."""

from __future__ import annotations

from dataclasses import dataclass, field

from search_spaces.trial import Outputs, Role, Trial, TrialSpec


@dataclass
class TrialSet:
    """Trials by key, in the order of their first appearance: parents come before children."""

    by_key: dict[str, Trial] = field(default_factory=dict)

    def add(
        self, spec: TrialSpec, role: Role, outputs: Outputs, after: tuple[str, ...] = ()
    ) -> str:
        """Add a trial, or a role and outputs to the one that has its key; return the key.

        Args:
            spec: The trial.
            role: Why it is wanted.
            outputs: What it shall leave behind.
            after: Keys of trials that it shall wait for; a trial that is wanted without waiting
                too does not wait.
        """
        key = spec.key
        known = self.by_key.get(key)
        if known is None:
            self.by_key[key] = Trial(spec=spec, roles=(role,), outputs=outputs, after=after)
        else:
            roles = known.roles if role in known.roles else (*known.roles, role)
            united = known.outputs.merged(outputs)
            both = after if known.after == after else ()
            self.by_key[key] = Trial(spec=known.spec, roles=roles, outputs=united, after=both)
        return key

    def in_order(self) -> list[Trial]:
        """Return all trials, parents before children."""
        return list(self.by_key.values())
