"""What drivers share without processes: a table, and a clock that is moved by hand."""

from __future__ import annotations

from collections.abc import Mapping


class SharedTable:
    """A table of this process, which can fail as a head does that has gone."""

    def __init__(self) -> None:
        self.content: dict[bytes, bytes] = {}
        self.is_gone = False
        self.is_broken = False

    def ask(self) -> None:
        self._check()

    def put(self, key: bytes, value: bytes) -> None:
        if self.is_broken:
            raise ValueError("broken")
        self._check()
        self.content[key] = value

    def delete(self, key: bytes) -> None:
        self._check()
        self.content.pop(key, None)

    def rows(self, prefix: bytes) -> Mapping[bytes, bytes]:
        self._check()
        return {key: value for key, value in self.content.items() if key.startswith(prefix)}

    def draining(self) -> set[str]:
        self._check()
        return {"leaving"}

    def _check(self) -> None:
        if self.is_gone:
            raise ConnectionError("gone")


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s
