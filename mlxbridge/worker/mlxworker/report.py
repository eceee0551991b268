"""What an engine has to say: of one step, and of all its life."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from mlxworker import channels
from mlxworker.errors import RequestError
from mlxworker.rows import Reason, Row


@dataclass
class Counters:
    """They only grow."""

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0

    def as_frame(self) -> dict[str, int]:
        """Return them as they go out."""
        return asdict(self)


def joined(texts: list[list[Any]]) -> list[list[Any]]:
    """Return the entries of a step with those of one row that follow each other put together."""
    out: list[list[Any]] = []
    for id_, text, tokens, *rest in texts:
        before = out[-1] if out else None
        if before is None or before[0] != id_ or len(before) != 3 + len(rest) or len(rest) > 1:
            out.append([id_, text, list(tokens), *(list(r) if isinstance(r, list) else r for r in rest)])
            continue
        before[1] += text
        before[2] += tokens
        for of_row, more in zip(before[3:], rest, strict=True):
            of_row += more
    return out


@dataclass
class Output:
    """What one step has to say, in this order."""

    accepted: list[Row] = field(default_factory=list)
    progress: list[tuple[Row, int, int]] = field(default_factory=list)
    # [id, text, tokens], and where it is needed [… , logprobs or None, extra]
    texts: list[list[Any]] = field(default_factory=list)
    ended: list[tuple[Row, Reason]] = field(default_factory=list)
    failed: list[tuple[Row, RequestError]] = field(default_factory=list)

    def add(self, row: Row, text: str, tokens: list[int], detail: dict[str, Any] | None = None) -> None:
        """Take in what tokens gave a row: text, or the row's pieces."""
        logprobs = [detail] if detail is not None else None
        if row.channels is not None:
            self.texts += channels.rows_of(row.id, row.pieces, tokens, logprobs)
            return
        entry: list[Any] = [row.id, text, tokens]
        if logprobs is not None:
            entry.append(logprobs)
        self.texts.append(entry)
