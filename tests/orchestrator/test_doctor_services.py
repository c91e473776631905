"""What `tickets doctor` says of Ray: its address, its token, and how soon it misses a node."""

from __future__ import annotations

import socket
from pathlib import Path

from cluster.health import health_environment
from orchestrator.doctor_services import health_finding, look_at_ray


def test_how_soon_a_lost_node_is_noticed_is_judged() -> None:
    """Ray's own settings take a minute; those that the message gives take twelve seconds."""
    slow, soon = health_finding(2, {}), health_finding(2, health_environment())
    assert (slow.level, slow.said) == (
        "warn",
        "a node that vanishes is noticed within 65 s; until then its gangs wait.",
    )
    assert slow.todo == (
        "Start the head again with RAY_health_check_period_ms=2000 "
        "RAY_health_check_timeout_ms=2000 RAY_health_check_failure_threshold=3."
    )
    assert (soon.level, soon.said) == ("ok", "a node that vanishes is noticed within 12 s.")
    assert health_finding(1, {}).level == "ok"
    assert health_finding(2, {"RAY_health_check_period_ms": "soon"}) == slow


def test_an_open_token_file_is_told(tmp_path: Path) -> None:
    """Also for a local Ray, whose ports listen on all interfaces; a closed or unused one is not."""
    path = tmp_path / "the token"
    path.write_text("0" * 64)
    path.chmod(0o640)
    environment = {"RAY_AUTH_TOKEN_PATH": str(path)}
    _, found = look_at_ray(environment, 2.0)
    assert (found.check, found.level, found.todo) == (
        "ray token",
        "warn",
        f"Run: chmod 600 '{path}'",
    )
    assert found.said.endswith("has mode 0640: other users may read or change it.")
    assert len(look_at_ray(environment | {"RAY_AUTH_TOKEN": "another"}, 2.0)) == 1
    assert len(look_at_ray(environment | {"RAY_AUTH_MODE": "disabled"}, 2.0)) == 1
    path.chmod(0o600)
    assert len(look_at_ray(environment, 2.0)) == 1


def test_a_ray_that_does_not_answer_is_said_within_seconds() -> None:
    """Refused, silent, not a Ray, and an address that is none."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        (answer, token) = look_at_ray({"RAY_ADDRESS": f"127.0.0.1:{port}"}, 2.0)
        assert answer.level == "fail" and "'ray status'" in answer.todo
        assert "says no version within 2 s" in answer.said
        assert token.check == "ray token"
    (refused,) = look_at_ray({"RAY_ADDRESS": f"127.0.0.1:{port}"}, 2.0)
    assert refused.level == "fail" and f"nothing answers at 127.0.0.1:{port}" in refused.said
    for address in ("nonsense", "ray://x:1", "x:notaport"):
        (bad,) = look_at_ray({"RAY_ADDRESS": address}, 2.0)
        assert bad.said == f"RAY_ADDRESS is {address!r}, not host:port."
    assert look_at_ray({"RAY_ADDRESS": "auto"}, 2.0)[0].level == "ok"
