"""How the ranks of a trial agree on a checkpoint: small numbers, exchanged as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from search_spaces.contracts import ArtifactInfo

_WORDS = 9  # of a file: its bytes, and eight words of its sha256
_FILES = 4  # of a rank, one of which is never written: what must be equal on all ranks


def at_most(values: Sequence[int], num_ranks: int, device: torch.device) -> list[int]:
    """Return the largest of each value over the ranks."""
    if num_ranks == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.int64, device=device)
    torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX)
    return [int(value) for value in tensor.tolist()]


def gathered(
    files: Sequence[ArtifactInfo], num_ranks: int, device: torch.device
) -> list[list[tuple[int, str]]] | None:
    """Return bytes and sha256 of each rank's four files; None where a rank has none.

    Args:
        files: This rank's four; none at all if it could not write them.
        num_ranks: Of the trial.
        device: Where the ranks exchange tensors.
    """
    words = [word for file in files for word in _words(file)] or [-1] * _FILES * _WORDS
    own = torch.tensor(words, dtype=torch.int64, device=device)
    parts = [own]
    if num_ranks > 1:
        parts = [torch.zeros_like(own) for _ in range(num_ranks)]
        torch.distributed.all_gather(parts, own)
    told = [part.tolist() for part in parts]
    if any(one[0] < 0 for one in told):
        return None
    return [
        [_file(words[at : at + _WORDS]) for at in range(0, _FILES * _WORDS, _WORDS)]
        for words in told
    ]


def differing_rank(of_ranks: Sequence[Sequence[tuple[int, str]]]) -> int:
    """Return the first rank whose first file is not that of rank 0; 0 where all are equal."""
    for rank, files in enumerate(of_ranks):
        if files[0] != of_ranks[0][0]:
            return rank
    return 0


def _words(file: ArtifactInfo) -> list[int]:
    digest = bytes.fromhex(file.sha256)
    return [file.num_bytes, *(int.from_bytes(digest[at : at + 4]) for at in range(0, 32, 4))]


def _file(words: Sequence[int]) -> tuple[int, str]:
    return words[0], b"".join(word.to_bytes(4) for word in words[1:]).hex()
