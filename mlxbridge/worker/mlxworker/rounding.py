"""As which sizes pieces of prompts are computed where each new size costs time of its own."""

from __future__ import annotations

# Up to _SMALL tokens a piece is computed as the next power of two, up to _MEDIUM as a multiple of _SMALL, and beyond
# as a multiple of _LARGE_STEP: so few sizes come that a warm-up meets all of them.
_LEAST, _SMALL, _MEDIUM, _LARGE_STEP = 16, 64, 512, 256


def round_up(tokens: int) -> int:
    """Return the size as which a piece of so many tokens is computed."""
    if tokens <= _SMALL:
        return max(_LEAST, 1 << (tokens - 1).bit_length())
    step = _SMALL if tokens <= _MEDIUM else _LARGE_STEP
    return -(-tokens // step) * step


def sizes(most: int) -> list[int]:
    """Return the sizes that come of pieces of at most so many tokens."""
    return sorted({round_up(n) for n in range(1, most + 1)})
