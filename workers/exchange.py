"""What the ranks of a gang tell each other at a step: gradients to owners, weights from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from deepspeed import comm
from torch import nn

from workers.owners import owners_of
from workers.tracked import Tracked

Gradients = list[tuple[Tracked, torch.Tensor]]


@dataclass(frozen=True)
class Share:
    """The tensors of one owner that have a gradient.

    Attributes:
        live: The tensors.
        buffer: Carries gradients to the owner, then its new weights to all; in the model's dtype.
    """

    live: list[Tracked]
    buffer: torch.Tensor

    def parts(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """Cut what is as long as the buffer into the tensors' parts, in their shapes."""
        parts = torch.split(flat, [one.master.numel() for one in self.live])
        return [part.view_as(one.master) for one, part in zip(self.live, parts, strict=True)]


@dataclass(frozen=True)
class Sums:
    """The gradients of one step.

    Attributes:
        live: All tensors that have one, in the order of the model.
        own: Those that this rank updates, each with its sum over micro-batches and ranks, fp32.
        shares: What travels, by owner; none of one rank alone.
    """

    live: list[Tracked]
    own: Gradients
    shares: list[Share]


class Exchange:
    """Sums gradients on the rank that owns a tensor, and brings all ranks its new weights.

    All ranks make the same calls. One rank alone owns all, and nothing travels.

    Args:
        tracked: The parameters of a trial, in the same order on all ranks.
        num_ranks: Of the gang.
    """

    def __init__(self, tracked: Sequence[Tracked], num_ranks: int) -> None:
        self._num_ranks = num_ranks
        self._rank = comm.get_rank() if num_ranks > 1 else 0
        owners = owners_of([one.master.numel() for one in tracked], num_ranks)
        self._owner_of = dict(zip(tracked, owners, strict=True))

    def owns(self, tracked: Tracked) -> bool:
        """Return whether this rank updates a tensor."""
        return self._owner_of[tracked] == self._rank

    def take_sums(self) -> Sums:
        """Take the collected gradients and sum them over ranks, each on its owner.

        Ranks send them straight to the owners, which add in the order of the ranks, in fp32: half
        the bytes of an all-reduce, and fewer than a reduce for each owner.
        """
        found = _taken(self._owner_of)
        live = [one for one, _ in found]
        if self._num_ranks == 1:
            return Sums(live, found, [])
        by_owner = [
            [(one, part) for one, part in found if self._owner_of[one] == owner]
            for owner in range(self._num_ranks)
        ]
        sizes = [sum(part.numel() for _, part in share) for share in by_owner]
        buffer = torch.cat([_rounded(*pair).flatten() for share in by_owner for pair in share])
        owned = [[one for one, _ in share] for share in by_owner]
        del found, by_owner  # the gradients themselves are not needed any more
        own_size = sizes[self._rank]
        told = buffer.new_empty(self._num_ranks * own_size)
        comm.all_to_all_single(told, buffer, [own_size] * self._num_ranks, sizes)
        first, *others = torch.split(told, own_size) if own_size else [told]
        total = first.float()
        for other in others:
            total += other
        parts = torch.split(buffer, sizes)
        shares = [Share(one, part) for one, part in zip(owned, parts, strict=True)]
        own = shares[self._rank]
        return Sums(live, list(zip(own.live, own.parts(total), strict=True)), shares)

    def total_norm(self, sums: Sums) -> torch.Tensor:
        """Return the norm of all summed gradients, as ``nn.utils.get_total_norm`` computes it.

        Each owner tells the norms of its own; to others they are zeros, which change no sum.
        """
        own = [gradient for _, gradient in sums.own]
        if self._num_ranks == 1:
            return nn.utils.get_total_norm(own)
        norms = dict.fromkeys(sums.live, torch.zeros((), device=sums.shares[0].buffer.device))
        if own:
            found = torch._foreach_norm(own)
            norms |= {one: norm for (one, _), norm in zip(sums.own, found, strict=True)}
        vector = torch.stack(list(norms.values()))
        comm.all_reduce(vector)
        total: torch.Tensor = torch.linalg.vector_norm(vector)
        return total

    def send(self, sums: Sums) -> None:
        """Give the model the new weights of all tensors that had a gradient."""
        pending = []
        for owner, share in enumerate(sums.shares):
            if not len(share.buffer):  # of more ranks than tensors
                continue
            if owner == self._rank:
                torch._foreach_copy_(share.parts(share.buffer), [one.master for one in share.live])
            pending.append(comm.broadcast(share.buffer, src=owner, async_op=True))
        for one, _ in sums.own:
            one.write()
        for sending in pending:
            sending.wait()
        for owner, share in enumerate(sums.shares):
            if owner != self._rank:
                for one, part in zip(share.live, share.parts(share.buffer), strict=True):
                    one.receive(part)

    def share_masters(self, tracked: Iterable[Tracked]) -> None:
        """Copy masters from their owners to all ranks, bit for bit and without a buffer."""
        if self._num_ranks > 1:
            pending = [
                comm.broadcast(one.master, src=self._owner_of[one], async_op=True)
                for one in tracked
                if one.master.numel()
            ]
            for sending in pending:
                sending.wait()


def _taken(tracked: Iterable[Tracked]) -> Gradients:
    found = ((one, one.take_gradient()) for one in tracked)
    return [(one, gradient) for one, gradient in found if gradient is not None]


def _rounded(tracked: Tracked, gradient: torch.Tensor) -> torch.Tensor:
    """Return a gradient in the dtype in which it travels, the model's."""
    return gradient.to(tracked.parameter.dtype)
