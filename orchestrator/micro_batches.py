"""Smaller micro-batches for trials whose memory ran out: same global batch, same key."""

from __future__ import annotations

from collections import Counter
from functools import cache

from search_spaces.contracts import FailureClass, TrialRequest


@cache
def micro_batch_sizes(share: int, first: int) -> tuple[int, ...]:
    """Return the micro-batches that a trial is tried with, one after the other.

    Each is half the one before or, where that does not divide the share, the next smaller size
    that does: only whole micro-batches keep the global batch. The last is 1.

    Args:
        share: Examples of a global batch on each rank.
        first: Size of the first attempt; divides the share.
    """
    sizes = [first]
    while sizes[-1] > 1:
        half = sizes[-1] // 2
        sizes.append(next(size for size in range(half, 0, -1) if share % size == 0))
    return tuple(sizes)


class MicroBatches:
    """The micro-batch of each trial: halved each time that its memory did not suffice.

    It counts failures of this run alone: whoever starts a sweep again may have changed machine
    or micro-batch. Each result records its own micro-batch (method rule 22).
    """

    def __init__(self, is_fixed: bool = False) -> None:
        """Begin with no trial halved; ``is_fixed``: none ever is (``strict_numerics``)."""
        self._is_fixed = is_fixed
        self._num_halved: Counter[str] = Counter()
        self._sizes: dict[str, tuple[int, ...]] = {}

    def fit(self, request: TrialRequest) -> TrialRequest:
        """Return the request with the micro-batch of its trial's next attempt."""
        key, compute = request.spec.key, request.compute
        share = request.spec.recipe.batch_size // compute.num_ranks
        self._sizes[key] = sizes = micro_batch_sizes(share, compute.micro_batch_size or share)
        num_halved = self._num_halved[key]
        if not num_halved:
            return request
        smaller = compute.with_micro_batch(sizes[num_halved])
        return request.model_copy(update={"compute": smaller})

    def can_shrink(self, key: str, failure: FailureClass) -> bool:
        """Whether a failure leaves another attempt a chance.

        After any class but ``out_of_memory`` it does; so it does with fixed micro-batches, as
        what else fills a machine's memory may have left it.
        """
        if failure is not FailureClass.OUT_OF_MEMORY or self._is_fixed:
            return True
        return self._size(key) > 1

    def explain(self, key: str, failure: FailureClass, message: str) -> str:
        """Return a failure's message; where memory ran out, with the micro-batch at fault."""
        if failure is not FailureClass.OUT_OF_MEMORY or key not in self._sizes:
            return message
        said = message if message.endswith((".", "!", "?")) else f"{message}."
        if self._size(key) > 1:
            return f"{said} The micro-batch was {self._size(key)}."
        return (
            f"{said} The micro-batch was 1 and cannot be halved: let fewer gangs share a device "
            "or node, or take one with more memory. A smaller max_length, or recipe.dtype: bf16, "
            "needs less too, but those are other trials."
        )

    def shrink(self, key: str, failure: FailureClass) -> str:
        """Halve the micro-batch of a trial's next attempt, if memory ran out.

        Returns:
            What is done, for people; "" where nothing changes.
        """
        if failure is not FailureClass.OUT_OF_MEMORY or self._is_fixed:
            return ""
        self._num_halved[key] += 1
        return self.note(key)

    def note(self, key: str) -> str:
        """Return why the trial's next attempt is not run as the sweep says; "" if it is."""
        num_halved = self._num_halved[key]
        if not num_halved:
            return ""
        before, now = self._sizes[key][num_halved - 1 : num_halved + 1]
        return f"retry {num_halved} with micro-batch {now} instead of {before}"

    def _size(self, key: str) -> int:
        return self._sizes[key][self._num_halved[key]]
