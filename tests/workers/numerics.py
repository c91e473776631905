"""The numerics of one rank on a CPU, for checkpoints that nobody trains for."""

from __future__ import annotations

import torch

from search_spaces.contracts import NumericsClass

CPU = torch.device("cpu")
NUMERICS = NumericsClass(
    device="cpu",
    dtype="fp32",
    layout="unpadded",
    num_ranks=1,
    micro_batch_size=8,
    num_threads=1,
    versions={"torch": "2"},
)
