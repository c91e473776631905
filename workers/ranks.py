"""Join the ranks of one gang: environment first, then DeepSpeed's process group."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

CONNECT_TIMEOUT_S = 300
# Ranks wait for one that reads, or that writes to a store that does not answer. How long that may
# take is for the driver's watchdog (retries.hang_after_s), and a peer that dies closes its
# connections, which ends a wait at once: so this is longer than any limit that people set. A store
# of torch counts milliseconds in 32 bits, and so to no more than 24 days.
WAIT_TIMEOUT_S = 7 * 24 * 3600


@dataclass(frozen=True)
class RankEnv:
    """One process's place in its gang.

    Attributes:
        rank: 0 <= rank < world_size.
        world_size: Processes of the gang.
        local_rank: Index of this process's device as it sees it.
        master_addr: Address of rank 0's own node.
        master_port: A free port there.
        device: What the ranks compute on.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    master_addr: str = "127.0.0.1"
    master_port: int = 0
    device: Literal["cpu", "cuda"] = "cpu"


def connect(env: RankEnv) -> None:
    """Initialise DeepSpeed's process group; does nothing where there is one already.

    Args:
        env: This process's place.

    Raises:
        torch.distributed.DistError: The ranks did not find each other in time.
    """
    os.environ.update(
        RANK=str(env.rank),
        WORLD_SIZE=str(env.world_size),
        LOCAL_RANK=str(env.local_rank),
        MASTER_ADDR=env.master_addr,
        MASTER_PORT=str(env.master_port),
    )
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if env.device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with _hidden("mlflow"):  # DeepSpeed's autotuning loads it, which no rank needs
        import deepspeed
    import torch.distributed
    from torch.distributed.rendezvous import rendezvous

    if torch.distributed.is_initialized():
        return
    if env.device == "cpu":
        forbid_compilation()
    backend, wait = "nccl" if env.device == "cuda" else "gloo", timedelta(seconds=WAIT_TIMEOUT_S)
    limit = timedelta(seconds=CONNECT_TIMEOUT_S)
    store, *_ = next(rendezvous("env://", timeout=limit))
    store.set_timeout(wait)
    on_gpu = env.device == "cuda" and env.world_size > 1  # then NCCL connects now
    torch.distributed.init_process_group(
        backend,
        store=store,
        rank=env.rank,
        world_size=env.world_size,
        timeout=wait,
        device_id=torch.device("cuda", env.local_rank) if on_gpu else None,
    )
    # finds this group and makes none
    deepspeed.init_distributed(backend, timeout=wait, verbose=False)


@contextmanager
def _hidden(module: str) -> Iterator[None]:
    """Let a module that is not loaded yet be as if it were not installed."""
    is_new = module not in sys.modules
    if is_new:
        sys.modules[module] = None  # type: ignore[assignment]  # what `import` refuses
    try:
        yield
    finally:
        if is_new:
            del sys.modules[module]


def forbid_compilation() -> None:
    """Keep DeepSpeed from compiling its shared-memory op on CPU.

    The build takes half a minute, and a process killed meanwhile leaves a lock that every later
    process waits for without end. Gloo serves instead. The table is private: deepspeed is pinned,
    and a test watches over it.
    """
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def disconnect() -> None:
    """End the process group, if there is one."""
    import deepspeed.comm
    import torch.distributed

    if torch.distributed.is_initialized():
        deepspeed.comm.destroy_process_group()
