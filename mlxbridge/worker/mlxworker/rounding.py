"""As which sizes pieces of prompts are computed where each new size costs time of its own."""

from __future__ import annotations

# Up to _MOST tokens a piece is computed as the next power of two, and beyond as a multiple of _MOST: so few sizes come
# that a warm-up meets all of them, and pieces end where others ended.
_LEAST, _MOST = 16, 512


def round_up(tokens: int) -> int:
    """Return the size as which a piece of so many tokens is computed."""
    if tokens > _MOST:
        return -(-tokens // _MOST) * _MOST
    return max(_LEAST, 1 << (tokens - 1).bit_length())


def sizes(most: int) -> list[int]:
    """Return the sizes that come of pieces of at most so many tokens, in order."""
    return sorted({round_up(n) for n in range(1, most + 1)})
