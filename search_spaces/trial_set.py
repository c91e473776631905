"""Trials of a sweep by key: equal ones are merged, their roles and outputs united."""

from __future__ import annotations

from dataclasses import dataclass, field

from search_spaces.trial import Outputs, Role, Trial, TrialSpec


@dataclass
class TrialSet:
    """Trials by key, in the order of their first appearance: parents come before children."""

    by_key: dict[str, Trial] = field(default_factory=dict)

    def add(self, spec: TrialSpec, role: Role, outputs: Outputs) -> str:
        """Add a trial, or a role and outputs to the one that has its key; return the key."""
        key = spec.key
        known = self.by_key.get(key)
        if known is None:
            self.by_key[key] = Trial(spec=spec, roles=(role,), outputs=outputs)
        else:
            roles = known.roles if role in known.roles else (*known.roles, role)
            united = known.outputs.merged(outputs)
            self.by_key[key] = Trial(spec=known.spec, roles=roles, outputs=united)
        return key

    def in_order(self) -> list[Trial]:
        """Return all trials, parents before children."""
        return list(self.by_key.values())
