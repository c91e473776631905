"""What a sweep says of its resources."""

import pytest

from search_spaces.run_specs import ResourcesSpec


@pytest.mark.parametrize(
    ("ranks", "each", "most", "expected"),
    [(1, 0, None, None), (4, 1, None, None), (4, 1, 9, 2), (4, 1, 4, 1), (1, 0.1, 0.3, 3)],
)
def test_gpu_limit_in_whole_gangs(
    ranks: int, each: float, most: float | None, expected: int | None
) -> None:
    spec = ResourcesSpec(ranks=ranks, gpus_per_rank=each, max_gpus=most)
    assert spec.max_gangs == expected
