"""Who may join: as many as there are slots for, and as memory allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mlxworker import policy
from mlxworker.compiled import Shelf
from mlxworker.errors import TOO_LARGE, RequestError
from mlxworker.memory import Budget
from mlxworker.model import Model
from mlxworker.prefix import PrefixStore
from mlxworker.rows import Row
from mlxworker.solo import AnyLane

# A row is admitted when this much of its answer fits too. What grows beyond is dealt with when it does.
_AHEAD_TOKENS = 256
# How many of those before it in line a row may pass whose own lane is free.
_MOST_PASSED = 16
# From how many of those who wait a group is chosen.
_MOST_LOOKED_AT = 256
# Below this many tokens a second lane does not pay: launching its kernels takes longer than reading the padding.
_LEAST_PADDING = {"gpu": 4096, "cpu": 2048}
# Prompts that start together while nobody decodes hold at most this many chunks.
_IDLE_CHUNKS = 8


@dataclass
class Admission:
    """Plans joins and relieves pressure. It only decides and drops stored prefixes; rows are moved by the engine."""

    budget: Budget
    prefix: PrefixStore
    most_padding: int  # tokens of padding that cost as much as a second lane
    forms: Shelf  # compiled grammars, which count; those that nobody uses make room
    beside: Callable[[], int] = lambda: 0  # bytes that are in use, or promised, for something beside the rows

    def next_in_line(self, lanes: list[AnyLane], waiting: list[Row]) -> tuple[int, int] | None:
        """Return the first waiting row whose lane is free to take one, and that lane; None when there is none.

        A lane that computes prompts takes no more of them, so a row may pass a few others that wait for that.
        """
        if all(lane.prefilling for lane in lanes):
            return None
        lengths = [lane.lengths() for lane in lanes]
        for i, row in enumerate(waiting[:_MOST_PASSED]):
            into = policy.choose_lane(lengths, row.length, self.most_padding)
            if not lanes[into].prefilling:
                return i, into
        return None

    def group(self, waiting: list[Row], room: int, chunk: int, decoding: bool) -> list[Row]:
        """Return which of the waiting rows start together, the first one among them."""
        tokens = chunk if decoding else _IDLE_CHUNKS * chunk
        lengths = [r.length for r in waiting[:_MOST_LOOKED_AT]]
        return [waiting[i] for i in policy.group(lengths, room, tokens)]

    def fitting(self, lanes: list[AnyLane], into: int, rows: list[Row], chunk: int) -> list[Row]:
        """Return as many of the rows, from the first on, as memory holds, dropping stored prefixes for them."""
        lengths = [[ahead(r) for r in lane.rows()] for lane in lanes]

        def fits(n: int) -> bool:
            joined = [*lengths[into], *(ahead(r) for r in rows[:n])]
            planned = [*lengths[:into], joined, *lengths[into + 1 :]]
            longest = max(r.length for r in rows[:n])
            alone = n == 1 and not any(lengths)
            return self._make_room(self.budget.peak(planned, into, min(chunk, longest), n), alone)

        least, most = 0, len(rows)
        while least < most:
            n = most if least == 0 and most == len(rows) else (least + most + 1) // 2
            least, most = (n, most) if fits(n) else (least, n - 1)
        return rows[:least]

    def refusal(self, row: Row, chunk: int) -> RequestError:
        """Return why a row that nobody else runs beside does not fit."""
        budget = self.budget
        need = budget.peak([[ahead(row)]], 0, min(chunk, row.length), 1) - budget.weights
        free = max(budget.limit - budget.weights, 0)
        claim = f"{row.length} tokens need {need} bytes of memory beside the weights, this worker has {free}"
        return RequestError(TOO_LARGE, claim)

    def overloaded(self, lanes: list[AnyLane]) -> bool:
        """Say whether running rows have outgrown memory even without stored prefixes."""
        used = self.budget.weights + self.budget.live([lane.lengths() for lane in lanes]) + self.budget.spare
        return not self._make_room(used, sum(len(lane) for lane in lanes) == 1)

    def room_for(self, lanes: list[AnyLane], more: int) -> bool:
        """Say whether so many bytes fit beside the running rows, dropping stored prefixes for them."""
        live = self.budget.live([lane.lengths() for lane in lanes])
        return self._make_room(self.budget.weights + live + self.budget.spare + more)

    def mergeable(self, lanes: list[AnyLane]) -> bool:
        """Say whether the rows of two lanes would do well in one."""
        lengths = [lane.lengths() for lane in lanes if len(lane)]
        if len(lengths) != 2 or any(lane.prefilling for lane in lanes):
            return False
        if self.budget.kv.windows or self.budget.kv.fixed:
            return False  # such a state cannot be cut by the last token: moving would compute the whole row again
        together = [*lengths[0], *lengths[1]]
        if self.budget.surplus(self.budget.peak([together], 0, 1, min(map(len, lengths)))) > 0:
            return False
        return policy.padding(together) <= self.most_padding // 2

    def _make_room(self, used: int, alone: bool = False) -> bool:
        surplus = self.budget.surplus(used + self.beside() + self.forms.nbytes)
        if surplus > 0:
            surplus -= self.forms.release(surplus)
        if alone and surplus > 0:  # a row is neither refused nor cut short for the grammars of those that wait
            surplus = self.budget.surplus(used + self.beside())
        if surplus > 0:
            return False
        if self.budget.limit and self.prefix.held > -surplus:
            self.prefix.trim_to(-surplus)
        return True


def ahead(row: Row) -> int:
    """Return the length that a row is planned with."""
    return row.length + min(row.max_tokens - len(row.tokens), _AHEAD_TOKENS)


def most_padding(model: Model) -> int:
    """Return how many tokens of padding cost as much as a second lane: half the weights, read once a step."""
    each = max(model.kv.for_one_token(), 1)
    return max(model.weight_bytes // (2 * each), _LEAST_PADDING[model.device])


def measured_padding(alone: float, short: float, long: float, tokens: int) -> int:
    """Return how many tokens of padding cost as much as a second lane, by the milliseconds of three steps.

    alone is a step of one row, which is what a lane costs whatever is in it; long has so many tokens more before its
    rows than short has.
    """
    a_token = max(long - short, short / 100) / tokens  # less cannot be told from nothing
    return int(alone / a_token)
