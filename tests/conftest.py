"""Fixtures that several packages' tests share."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from cluster.session import Session

NUM_RAY_CPUS = 4  # told to Ray, however many there are: two gangs of two ranks

settings.register_profile("any machine", deadline=None)  # no test fails for a busy one
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def ray_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """One local Ray for all tests, which neither reads nor writes the user's home."""
    from cluster.session import Session

    token = tmp_path_factory.mktemp("ray") / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.delenv("RAY_AUTH_TOKEN", raising=False)
        patch.delenv("RAY_AUTH_MODE", raising=False)  # Ray itself turns it on
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        with Session(num_cpus=NUM_RAY_CPUS) as session:
            yield session
