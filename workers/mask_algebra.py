"""Set operations on masks of one prunable set, on the packed bits; a mask's set is what it keeps.

Nothing is unpacked: a BERT-large's two masks are 76 MB of bytes, and no bool array is made.
"""

from __future__ import annotations

import numpy as np

from workers.bits import chunks, count_ones
from workers.mask import Mask


def union(first: Mask, second: Mask) -> Mask:
    """Return the mask that keeps what either mask keeps.

    Raises:
        MaskMismatchError: The masks belong to different prunable sets.
    """
    first.check_comparable(second)
    return Mask(first.prunable, np.bitwise_or(first.bits, second.bits))


def intersection(first: Mask, second: Mask) -> Mask:
    """Return the mask that keeps what both masks keep; errors as for ``union``."""
    first.check_comparable(second)
    return Mask(first.prunable, np.bitwise_and(first.bits, second.bits))


def overlap(first: Mask, second: Mask) -> float:
    """Return the relative overlap: weights that both keep / weights that either keeps.

    This is how Chen et al. 2020 (arXiv:2007.12223) compare the masks of two tasks, and is also
    called intersection over union, or Jaccard index. Two masks that keep nothing overlap by 1.

    Raises:
        MaskMismatchError: The masks belong to different prunable sets.
    """
    num_both = num_common(first, second)
    num_either = first.num_kept + second.num_kept - num_both
    return num_both / num_either if num_either else 1.0


def num_common(first: Mask, second: Mask) -> int:
    """Return how many weights both masks keep; errors as for ``union``."""
    first.check_comparable(second)
    places = chunks(slice(0, len(first.bits)))
    return sum(count_ones(first.bits[place] & second.bits[place]) for place in places)
