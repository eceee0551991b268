"""What a model writes, sorted while it comes: the answer proper, its reasoning, its tool calls.

Works on text, so that a marker may be one token or many. What may be the beginning of a marker is held back until it is
clear what it is. White space next to a marker belongs to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlxworker import toolcalls
from mlxworker.protocol import Generate
from mlxworker.stopping import StopMatcher, StopSet
from mlxworker.toolcalls import Call, Delta, Notation, Numbering

if TYPE_CHECKING:
    from mlxworker.model import Model

TEXT = "text"
REASONING = "reasoning"
CALLS = "calls"

_ORDER = {REASONING: 0, TEXT: 1, CALLS: 2}
# More white space than this is not held back: a model that writes nothing else is to be seen.
_MOST_SPACE = 256
# Tokens at the end of a prompt that may hold a marker of reasoning and the white space after it.
_TAIL_TOKENS = 32


@dataclass
class Piece:
    """Something of one channel: text, or deltas of calls where kind is CALLS."""

    kind: str
    text: str = ""
    calls: list[Delta] | None = None


@dataclass(frozen=True)
class Format:
    """How a model marks its channels. What is None it does not have."""

    think: tuple[str, str] | None
    tools: Notation | None
    dropped: tuple[str, ...] = ()  # markers around the answer proper that are no part of it


def format_of(tokenizer: Any) -> Format:
    """Return how the model of this tokenizer marks its channels."""
    think = None
    if tokenizer.has_thinking and tokenizer.think_start and tokenizer.think_end:
        think = (str(tokenizer.think_start), str(tokenizer.think_end))
    dropped = tuple(str(m) for m in getattr(tokenizer, "structural_markers", ()) or ())
    return Format(think, toolcalls.notation(tokenizer), dropped)


def reasoning_at_end(form: Format, prompt: list[int], words: Any) -> tuple[bool, bool]:
    """Say whether a prompt ends in an open block of reasoning, and whether it ends in one that is closed.

    Only the very end counts, which is what a template put there for the model: a marker in a message means nothing.
    """
    if form.think is None:
        return False, False
    start, end = (marker.strip().encode() for marker in form.think)
    tail = b"".join(words.token_bytes(t) for t in prompt[-_TAIL_TOKENS:]).rstrip()
    return tail.endswith(start), tail.endswith(end)


class Channels:
    """Sorts one answer. Not made for rows whose model has no channels.

    Stop sequences are looked for in the answer proper: what a model thinks or calls does not end it, and no sequence
    reaches over a call or over reasoning. stop is the one that ended the answer. over is True when the answer has to
    end because it may make one call only, and has.
    """

    def __init__(
        self,
        form: Format,
        tools: list[dict[str, Any]],
        numbers: Numbering,
        reasons: bool = False,
        stops: StopMatcher | None = None,
        single: bool = False,
    ) -> None:
        """Make it; without tools no call is looked for. reasons says that the answer begins inside of reasoning."""
        self.over = False
        self._single = single
        self.stop: str | None = None
        self._stops = stops
        self._form = form
        self._tools = tools
        self._numbers = numbers
        self._state = REASONING if reasons else TEXT
        self._markers = {state: _Markers(self._of(state)) for state in (TEXT, REASONING)}
        self._pending = ""
        self._skips = reasons  # white space until something else comes
        self._call: Call | None = None
        self._before = ""  # white space before the call, which comes back with it

    @property
    def calls(self) -> int:
        """Return how many calls there were."""
        return self._numbers.count

    def feed(self, text: str) -> list[Piece]:
        """Take the next text; return what is certain, in order."""
        out: list[Piece] = []
        if self.over:
            return out
        self._pending += text
        while self._pending:
            if self._call is not None:
                self._feed_call(self._call, out)
            elif not self._scan(out):
                break
        return self._stopped(_joined(out))

    def finish(self, complete: bool) -> list[Piece]:
        """Return what was held back; complete says that the model ended the answer, not a limit."""
        out: list[Piece] = []
        if self._call is not None:
            self._after_call(self._call, self._call.finish(complete), out)
        self._put(self._pending, out)
        self._pending = ""
        out = self._stopped(_joined(out))
        if self._stops is not None and self.stop is None:
            self._add(Piece(TEXT, self._stops.flush()), out)
        return _joined(out)

    def _stopped(self, pieces: list[Piece]) -> list[Piece]:
        """Cut the answer where a stop sequence ends it."""
        if self._stops is None:
            return pieces
        out: list[Piece] = []
        for piece in pieces:
            if piece.kind != TEXT:
                self._add(Piece(TEXT, self._stops.flush()), out)
                out.append(piece)
                continue
            text, self.stop = self._stops.feed(piece.text)
            self._add(Piece(TEXT, text), out)
            if self.stop is not None:
                break
        return _joined(out)

    @staticmethod
    def _add(piece: Piece, out: list[Piece]) -> None:
        if piece.text:
            out.append(piece)

    def _of(self, state: str) -> list[str]:
        form = self._form
        found = [form.tools.start] if form.tools is not None and self._tools else []
        if form.think is not None:
            found.append(form.think[0] if state == TEXT else form.think[1])
        return found + (list(form.dropped) if state == TEXT else [])

    def _scan(self, out: list[Piece]) -> bool:
        """Go to the next marker; False when there is none."""
        if self._skips:
            self._pending = self._pending.lstrip()
            if not self._pending:
                return False
            self._skips = False
        markers = self._markers[self._state]
        found = markers.find(self._pending)
        if found is None:
            cut = markers.certain(self._pending)
            self._put(self._pending[:cut], out)
            self._pending = self._pending[cut:]
            return False
        before = self._pending[: found.start()]
        kept = before.rstrip()
        self._put(kept, out)
        self._pending = self._pending[found.end() :]
        self._enter(found.group(), before[len(kept) :])
        return True

    def _enter(self, marker: str, space: str) -> None:
        form = self._form
        if form.tools is not None and self._tools and marker == form.tools.start:
            self._call, self._before = Call(form.tools, self._tools, self._numbers), space
            return
        if form.think is not None and marker in form.think:
            self._state = REASONING if marker == form.think[0] and self._state == TEXT else TEXT
        self._skips = True

    def _feed_call(self, call: Call, out: list[Piece]) -> None:
        text, self._pending = self._pending, ""
        self._after_call(call, call.feed(text), out)

    def _after_call(self, call: Call, deltas: list[Delta], out: list[Piece]) -> None:
        if self._single:
            deltas = [d for d in deltas if d["index"] == 0]
        if deltas:
            out.append(Piece(CALLS, calls=deltas))
        if not call.closed:
            return
        self._call = None
        if call.lost:
            self._put(call.lost if call.announced else self._before + call.lost, out)
        self._skips = not call.lost
        self._pending = call.rest
        if self._single and self.calls:
            self.over, self._pending = True, ""

    def _put(self, text: str, out: list[Piece]) -> None:
        self._add(Piece(self._state, text), out)


class _Markers:
    """Finds the first of some markers, and what may become one."""

    def __init__(self, markers: list[str]) -> None:
        self._markers = sorted(markers, key=len)  # the one that is complete first counts
        self._firsts = frozenset(m[0] for m in markers)
        self._longest = max(map(len, markers), default=0)
        self._pattern = re.compile("|".join(map(re.escape, self._markers))) if markers else None

    def find(self, text: str) -> re.Match[str] | None:
        """Return the first marker."""
        return self._pattern.search(text) if self._pattern is not None else None

    def certain(self, text: str) -> int:
        """Return how much of a text without a marker is no part of one, nor the white space before it."""
        if self._pattern is None:
            return len(text)
        end = len(text)
        for i in range(max(0, end - self._longest + 1), end):
            if text[i] in self._firsts and any(m.startswith(text[i:]) for m in self._markers):
                end = i
                break
        solid = len(text[:end].rstrip())
        return solid if end - solid <= _MOST_SPACE else end


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Put neighbours of one channel together."""
    out: list[Piece] = []
    for piece in pieces:
        last = out[-1] if out and out[-1].kind == piece.kind else None
        if last is None:
            out.append(piece)
        elif piece.calls is not None and last.calls is not None:
            last.calls = toolcalls.merged(last.calls + piece.calls)
        else:
            last.text += piece.text
    return out


def rows_of(request: str, pieces: list[Piece], tokens: list[int], logprobs: list[Any] | None) -> list[list[Any]]:
    """Return a step's rows for these pieces: one, unless they come in another order than reasoning, text, calls.

    The tokens go with the last: whoever has them has all that came of them.
    """
    rows: list[tuple[str, dict[str, Any]]] = []
    text, rank = "", 0
    extra: dict[str, Any] = {}
    for piece in pieces:
        if _ORDER[piece.kind] < rank:
            rows.append((text, extra))
            text, extra = "", {}
        rank = _ORDER[piece.kind]
        if piece.kind == TEXT:
            text += piece.text
        elif piece.kind == REASONING:
            extra["reasoning"] = extra.get("reasoning", "") + piece.text
        else:
            extra["calls"] = extra.get("calls", []) + (piece.calls or [])
    rows.append((text, extra))
    out: list[list[Any]] = []
    for i, (t, e) in enumerate(rows):
        last = i == len(rows) - 1
        row: list[Any] = [request, t, tokens if last else []]
        if last and logprobs is not None:
            row.append(logprobs)
        if e:
            row += [None, e] if len(row) == 3 else [e]
        out.append(row)
    return out


def for_request(model: Model, ask: Generate, prompt: list[int]) -> Channels | None:
    """Return what sorts the answer to a request; None where all of it is answer proper."""
    form = model.channels
    if not ask.is_chat or (form.think is None and not form.dropped and (form.tools is None or not ask.tools)):
        return None
    stops = StopMatcher(StopSet(ask.stop)) if ask.stop else None
    reasons, _ = reasoning_at_end(form, prompt, model.words)
    return Channels(form, ask.tools, Numbering(ask.request, prompt), reasons, stops, ask.single_tool_call)
