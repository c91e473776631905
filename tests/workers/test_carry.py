"""What a round inherits comes back exactly, under one name by content."""

from __future__ import annotations

import numpy as np
from safetensors.numpy import load

from workers.carry import Carried

HEAD = {
    "classifier.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "classifier.bias": np.array([0.5, -0.0], dtype=np.float32),
}


def test_round_trip() -> None:
    """Head and position come back, and any safetensors reader finds the head."""
    data = Carried(HEAD, epoch=3, step=40).to_bytes()
    again = Carried.from_bytes(data)
    assert (again.epoch, again.step) == (3, 40)
    for found in (again.head, load(data)):
        assert found.keys() == HEAD.keys()
        assert all(found[name].tobytes() == HEAD[name].tobytes() for name in HEAD)


def test_equal_states_give_equal_bytes() -> None:
    """Files are named by sha256, but safetensors alone writes metadata in random order."""
    assert len({Carried(HEAD, epoch=3, step=40).to_bytes() for _ in range(40)}) == 1
    assert Carried(HEAD, epoch=3, step=41).to_bytes() != Carried(HEAD, epoch=3, step=40).to_bytes()
