"""Modelled seconds of one optimizer step on a gang: arithmetic, memory traffic, exchange.

Of all constants only the CPU's first two were measured; the rest are published peaks and counts of
what `workers/exchange.py` and `workers/tracked.py` read and write. Plans prefer what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.contracts import Compute

# Measured with MiniLM-L6, batch 32, one thread of an x86 server core with AMX, torch 2.13.
CPU_THREAD_FLOP_PER_S = {"fp32": 85e9, "bf16": 130e9}
CPU_UPDATE_S_PER_WEIGHT = 5e-9  # clipping, AdamW and mask
CPU_OWN_SHARE = 0.2  # of it: what every rank does for all weights; a guess
CPU_EXCHANGE_BYTES_PER_S = 1e9  # 10-gigabit Ethernet, somewhat less; a guess
# Not measured: 60% of the 790 TFLOP/s that dense bf16 reaches on an H200; true fp32 55 TFLOP/s.
GPU_FLOP_PER_S = {"fp32": 55e12, "bf16": 474e12}
GPU_BYTES_PER_S = 3.84e12  # 80% of the 4.8 TB/s of its memory
GPU_EXCHANGE_BYTES_PER_S = 360e9  # 80% of NVLink 4's 450 GB/s each way; between nodes it is less
COLLECTIVE_S = 10e-6  # until a collective call moves anything; a guess
BYTES = {"fp32": 4, "bf16": 2}  # of a gradient or weight that travels
UPDATE_BYTES = 32  # of a weight, by its owner: norm 4; AdamW's gradient, master, moments 28
ROUNDING_BYTES = 12  # of a weight in bf16, by its owner: gradient to fp32, master to bf16
INDEX_BYTES = 18  # of a survivor, by every rank: its place, twice, and neighbours read in vain


@dataclass(frozen=True)
class StepWork:
    """What one optimizer step has to do.

    Attributes:
        flop: Of forward and backward, over all ranks.
        num_moving: Weights that can move.
        num_survivors: Those among them that are kept by their places: of pruned matrices.
        dtype: fp32 or bf16.
    """

    flop: float
    num_moving: float
    num_survivors: float
    dtype: str


def modelled_s(work: StepWork, compute: Compute) -> float:
    """Return the modelled seconds of a step on a gang.

    The arithmetic is split over the ranks, and so is the update, each weight by its owner. Every
    rank takes and writes all weights that can move, and each of these travels twice, after
    backward and not during it: once as a gradient, once as a weight.

    Args:
        work: The step.
        compute: The gang; its ranks are on one node.
    """
    ranks, weights = compute.num_ranks, work.num_moving
    # Gradients go straight to their owners; weights come in one broadcast after the other.
    share_sent = (ranks - 1) / ranks + 1 if ranks > 1 else 0.0
    num_exchanged = share_sent * weights * BYTES[work.dtype]
    calls_s = (ranks + 2) * COLLECTIVE_S if ranks > 1 else 0.0  # gradients, norms, a broadcast each
    if not compute.num_gpus_per_rank:
        rate = CPU_THREAD_FLOP_PER_S[work.dtype] * compute.num_threads
        share = CPU_OWN_SHARE + (1 - CPU_OWN_SHARE) / ranks
        update_s = share * CPU_UPDATE_S_PER_WEIGHT * weights
        return work.flop / rate / ranks + update_s + num_exchanged / CPU_EXCHANGE_BYTES_PER_S
    rate = GPU_FLOP_PER_S[work.dtype] * compute.num_gpus_per_rank
    rounding = ROUNDING_BYTES if work.dtype == "bf16" else 0
    num_bytes = (UPDATE_BYTES + rounding) / ranks * weights + INDEX_BYTES * work.num_survivors
    if ranks > 1:  # gradients into a buffer, their sums, weights from a buffer
        num_bytes += 5 * BYTES[work.dtype] * weights
    else:  # survivors out of gradients and into weights
        num_bytes += 4 * BYTES[work.dtype] * work.num_survivors
    moved_s = num_bytes / (GPU_BYTES_PER_S * compute.num_gpus_per_rank)
    return work.flop / rate / ranks + moved_s + num_exchanged / GPU_EXCHANGE_BYTES_PER_S + calls_s
