"""What is known of a sequence in few bytes: a chain of hashes, one for every 256 tokens from its beginning.

Both sides of a cluster compute it, so it is fixed: h(i) is the first 8 bytes of SHA-256 over h(i-1), which is empty
for the first, and the 256 token ids of block i as little-endian unsigned 32-bit numbers.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

BLOCK_TOKENS = 256
DIGEST_BYTES = 8
_BLOCK = struct.Struct(f"<{BLOCK_TOKENS}I")


def chain(tokens: Sequence[int], most: int) -> list[str]:
    """Return the digests of the first whole blocks of tokens, at most that many, in hexadecimal."""
    out: list[str] = []
    last = b""
    for start in range(0, min(len(tokens) // BLOCK_TOKENS, most) * BLOCK_TOKENS, BLOCK_TOKENS):
        block = _BLOCK.pack(*tokens[start : start + BLOCK_TOKENS])
        last = hashlib.sha256(last + block).digest()[:DIGEST_BYTES]
        out.append(last.hex())
    return out
