"""Windows over contexts: which of several shows most around a token."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from search_spaces.windows import fullest_spans


def is_max_context(spans: list[tuple[int, int]], current: int, position: int) -> bool:
    """Say it token by token, as run_squad.py's rule is described (Devlin et al., BERT)."""
    best, best_place = None, None
    for place, (begin, end) in enumerate(spans):
        last = end - 1
        if not begin <= position <= last:
            continue
        score = min(position - begin, last - position) + 0.01 * (end - begin)
        if best is None or score > best:
            best, best_place = score, place
    return current == best_place


@given(
    num_tokens=st.integers(1, 60),
    room=st.integers(1, 20),
    stride=st.integers(1, 20),
)
def test_every_token_has_the_window_of_the_reference(
    num_tokens: int, room: int, stride: int
) -> None:
    spans, begin = [], 0
    while True:
        spans.append((begin, min(begin + room, num_tokens)))
        if begin + room >= num_tokens:
            break
        begin += min(stride, room)
    owners = fullest_spans(spans, num_tokens)
    for position in range(num_tokens):
        for place in range(len(spans)):
            assert (owners[position] == place) == is_max_context(spans, place, position)
