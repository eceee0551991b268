"""Why the compiler of grammars refuses one, in words of ours: its own tell of its inside."""

from __future__ import annotations

from mlxworker.errors import one_line

EMPTY = "no text fits it: a part of it matches nothing, or refers to itself and never comes to a value"
COMPLEX = "it is too complex"

# What a message of the compiler has in it, and what that means. The first that is found counts.
_MEANINGS = (
    ("NoExtensionBias", EMPTY),
    ("Regex is empty", EMPTY),
    ("Unable to determine if regex is empty", COMPLEX),
    ("too many", COMPLEX),
    ("limits.", COMPLEX),
    ("fuel", COMPLEX),
    ("too large", COMPLEX),
    ("too big", COMPLEX),
    ("TooComplex", COMPLEX),
    ("<non-verbose/>", "the compiler gives it up"),
)


def why(text: str) -> str:
    """Return a message of the compiler in one short line; nothing for none."""
    lines = [line.strip() for line in text.strip().splitlines()] or [""]
    # What a client wrote stands in it as well, but not where the compiler speaks of a place.
    if not lines[0].startswith("at "):
        for part, meaning in _MEANINGS:
            if part in text:
                return meaning
    cause = next((line for line in lines[1:] if line.startswith("error:")), "")
    if cause and "regex parse error" in text:
        return one_line(f"regex parse error: {cause.removeprefix('error:').strip()}", 200)
    return one_line(f"{lines[0]} {cause}".strip(), 200)
