"""Whose fault a failed step is: that of one row, which fails then, or that of the machine, which ends the worker."""

from __future__ import annotations

from dataclasses import dataclass, field

from mlxworker.errors import EXIT_INTERNAL, EXIT_OUT_OF_MEMORY, FatalError, describe, is_out_of_memory
from mlxworker.lanes import Lanes
from mlxworker.rows import Row

# When so many rows failed and nobody was given a token in between, it is no row's fault.
_MOST_CULPRITS = 3


@dataclass
class Verdict:
    """What becomes of the rows of a lane whose step failed."""

    again: list[Row] = field(default_factory=list)  # they start again at once
    later: list[Row] = field(default_factory=list)  # they wait first
    culprit: Row | None = None


class Blame:
    """Judges failed steps. A step counts against its rows until they are given a token."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._culprits = 0

    def succeeded(self) -> None:
        """Take note that somebody was given a token."""
        self._culprits = 0

    def judge(self, rows: list[Row], error: Exception) -> Verdict:
        """Return what becomes of the rows, oldest first. Raises FatalError when the worker cannot go on."""
        rows = sorted(rows, key=lambda r: r.added)
        exhausted = is_out_of_memory(error)
        for row in rows:
            row.strike(exhausted)
        if exhausted:
            if any(row.exhausted > 1 for row in rows):
                raise FatalError(f"two steps in a row failed: {describe(error)}", EXIT_OUT_OF_MEMORY) from error
            return Verdict(later=rows)  # they come back as memory allows
        suspects = [row for row in rows if row.is_suspect]
        if not suspects:
            return Verdict(again=rows)
        if len(suspects) == 1 and (len(rows) == 1 or suspects[0].strikes > 2):
            self._convict(error)
            return Verdict(again=[row for row in rows if row is not suspects[0]], culprit=suspects[0])
        return Verdict(again=suspects[:1], later=[row for row in rows if row is not suspects[0]])

    def _convict(self, error: Exception) -> None:
        self._culprits += 1
        try:
            if self._culprits < _MOST_CULPRITS:
                self._lanes.probe()
                return
        except Exception as e:  # not even a row of one token
            code = EXIT_OUT_OF_MEMORY if is_out_of_memory(e) else EXIT_INTERNAL
            raise FatalError(f"no step succeeds any more: {describe(error)}", code) from e
        raise FatalError(f"steps of {self._culprits} rows in a row failed: {describe(error)}", EXIT_INTERNAL) from error
