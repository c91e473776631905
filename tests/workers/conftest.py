"""Fixtures that start processes, which several modules share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.workers.running import ProcessGang


@pytest.fixture(scope="package")
def gang() -> Iterator[ProcessGang]:
    """Two warm ranks."""
    with ProcessGang(2) as gang:
        yield gang
