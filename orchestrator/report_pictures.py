"""A figure of the report: its file beside the page, its place within it, and its words."""

from __future__ import annotations

import base64
import re
import struct
from dataclasses import dataclass

_SIZE_AT = 16  # of a PNG: its signature, then length and name of the chunk that begins with it


@dataclass(frozen=True)
class Picture:
    """A figure: the name of its PNG file, the bytes, and what it shows in words."""

    name: str
    png: bytes
    text: str

    @property
    def uri(self) -> str:
        """The figure as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        wide, high = struct.unpack_from(">II", self.png, _SIZE_AT)
        return wide, high


def picture_name(kind: str, number: int, *parts: str) -> str:
    """Return the name of a figure's file.

    Args:
        kind: Of the figure, which a stale one is found by.
        number: Of the section. Names may hold anything: it keeps apart what cleaning makes equal.
        parts: What the figure is of.
    """
    title = re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(parts))
    return f"{kind}-{number:02d}-{title}.png"
