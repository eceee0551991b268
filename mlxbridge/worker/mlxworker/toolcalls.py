"""One tool call in the making: from the text after its opening marker to what a client gets.

A call in JSON is streamed: its name goes out with the first piece of its arguments, for until then it may still turn
out to be no call. A call in any other notation is given to the model's own parser when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# {"index": int, "id": str, "name": str, "arguments": str}; id and name are in a call's first delta only.
Delta = dict[str, Any]
Parser = Callable[[str, Any], Any]

# The parsers are a model library's, made of regular expressions, and run between two steps. What they take grows by the
# square on repeated beginnings of a call, and a little at a time on honest ones: 16 KiB of the worst of them takes 7 s.
# Each limit keeps the worst text at about two seconds and lets honest calls pass, which hold whole files. A longer text
# is no call, but text. What is streamed has no such bound.
_MOST_CHARACTERS = 128 << 10
_MOST_OF = {
    "gemma4": 8 << 10,
    "kimi_k3": 8 << 10,
    "glm47": 16 << 10,
    "laguna": 32 << 10,
    "function_gemma": 64 << 10,
    "kimi_k2": 64 << 10,
    "pythonic": 64 << 10,
}
_MOST_HEAD = 1 << 10
_MOST_ID = 128
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)', re.DOTALL)


@dataclass(frozen=True)
class Notation:
    """How a model writes its calls. An empty end means that a call lasts until the answer ends."""

    start: str
    end: str
    parser: Parser
    kind: str  # the parser's name
    most: int  # characters of a call that the parser is given

    @property
    def is_json(self) -> bool:
        """Say whether a call is a JSON object with name and arguments."""
        return self.kind == "json_tools"


def notation(tokenizer: Any) -> Notation | None:
    """Return how the model of this tokenizer writes its calls, None for one that makes none."""
    if not tokenizer.has_tool_calling or not tokenizer.tool_call_start:
        return None
    kind = str(getattr(tokenizer.tool_parser, "__module__", "")).rpartition(".")[2]
    return Notation(
        start=tokenizer.tool_call_start,
        end=tokenizer.tool_call_end or "",
        parser=tokenizer.tool_parser,
        kind=kind,
        most=_MOST_OF.get(kind, _MOST_CHARACTERS),
    )


class Numbering:
    """Gives the calls of one answer their indexes and ids."""

    def __init__(self, request: str, prompt: list[int]) -> None:
        """Make it: every attempt at a request gives its calls the same ids, and no other turn of a chat does."""
        salt = hashlib.blake2b(request.encode("utf-8", "replace") if request else os.urandom(16))
        salt.update(repr(prompt).encode())
        self._salt = salt
        self.count = 0

    def first(self, name: str, arguments: str, own: object = None) -> Delta:
        """Return the first delta of the next call. own is the id that the model gave it, if it did."""
        made = self._salt.copy()
        made.update(b"%d" % self.count)
        usable = isinstance(own, str) and 0 < len(own) <= _MOST_ID
        delta = {
            "index": self.count,
            "id": own if usable else "call_" + made.hexdigest()[:24],
            "name": name,
            "arguments": arguments,
        }
        self.count += 1
        return delta

    def more(self, arguments: str) -> Delta:
        """Return a further delta of the newest call."""
        return {"index": self.count - 1, "arguments": arguments}


class Call:
    """What stands between two markers. closed is True when it is over; then rest is what came after it.

    lost is what came of it that is no call: it has to be given back as text. Where announced is False that is all of
    it, with its markers.
    """

    def __init__(self, how: Notation, tools: list[dict[str, Any]], numbers: Numbering) -> None:
        self.announced = False
        self.closed = False
        self.lost = ""
        self.rest = ""
        self._how = how
        self._tools = tools
        self._numbers = numbers
        self._held: list[str] = []  # since the beginning, or since the end of the arguments
        self._size = 0
        self._arguments: _Arguments | None = None

    def feed(self, text: str) -> list[Delta]:
        """Take text; return what can be sent of it."""
        if self._arguments is not None:
            return self._stream(self._arguments, text)
        window = len(self._how.end) - 1 if self._how.end else 0
        self._held.append(text)
        self._size += len(text)
        if self._how.is_json and not self.announced:
            began = self._begin()
            if began is not None:
                return began
        if self._how.end:
            # Only where the marker may end now; the whole is put together at most once for each character in it.
            tail = "".join(self._held[-(window + 1) :]) if self._size > _MOST_HEAD else "".join(self._held)
            if self._how.end in tail:
                return self._close()
        if self._size > self._how.most:
            self._give_back("".join(self._held), "")
        return []

    def finish(self, complete: bool) -> list[Delta]:
        """End it with the answer; complete says that the model ended it, not a limit."""
        if self._arguments is not None:
            held = self._arguments.flush()
            self.closed = True
            return [self._numbers.more(held)] if held else []
        body = "".join(self._held)
        if complete or not self._how.end or body.strip() == "}":
            return self._settle(body, "")
        self._give_back(body, "")
        return []

    def _begin(self) -> list[Delta] | None:
        """Announce a JSON call whose arguments begin."""
        if self._size > _MOST_HEAD and self._size - len(self._held[-1]) > _MOST_HEAD:
            return None
        text = "".join(self._held)
        head = _HEAD.match(text)
        if head is None or head.end() > _MOST_HEAD:
            return None
        at = text.find(self._how.end) if self._how.end else -1
        name = _loads(head.group(1))
        if 0 <= at < head.end() or not isinstance(name, str) or not name:
            return None
        self.announced = True
        self._held, self._size = [], 0
        self._arguments = _Arguments(self._how.end)
        first = self._numbers.first(name, "")
        rest = self._stream(self._arguments, text[head.end() :])
        return merged([first, *rest])

    def _stream(self, arguments: _Arguments, text: str) -> list[Delta]:
        piece, rest = arguments.feed(text)
        out = [self._numbers.more(piece)] if piece else []
        if arguments.cut:
            self.closed, self.rest = True, rest
        elif arguments.done:
            self._arguments = None
            out += self.feed(rest) if rest else []
        return out

    def _close(self) -> list[Delta]:
        body, _, rest = "".join(self._held).partition(self._how.end)
        self.rest = rest
        if len(body) > self._how.most:
            self._give_back(body, self._how.end)
            return []
        return self._settle(body, self._how.end)

    def _settle(self, body: str, end: str) -> list[Delta]:
        """Make calls of a whole body, or of what follows a call that was streamed."""
        self.closed = True
        if self.announced:
            # Members after the arguments mean nothing here; another object may be another call.
            if _is_tail(body):
                return []
            body = body.strip().removeprefix("}")
            if not body.strip():
                return []
        made = self._parse(body)
        if made is None:
            self._give_back(body, "" if self.announced else end)
            return []
        self.announced = True
        return [self._numbers.first(*m) for m in made]

    def _parse(self, body: str) -> list[tuple[str, str, object]] | None:
        try:
            parsed = self._how.parser(body, self._tools)
            calls = parsed if isinstance(parsed, list) else [parsed]
            made = [_checked(c) for c in calls]
        except Exception:  # whatever a parser makes of what a model wrote
            return None
        whole = [m for m in made if m is not None]
        return whole if whole and len(whole) == len(made) else None

    def _give_back(self, body: str, end: str) -> None:
        self.closed = True
        self.lost = body if self.announced else self._how.start + body + end


class _Arguments:
    """Follows a JSON object as far as strings and brackets go: that tells where it ends, and a marker from a string."""

    def __init__(self, end: str) -> None:
        self.done = False  # the object is whole
        self.cut = False  # the marker came before that
        self._end = end
        self._held = ""  # what may be the beginning of the marker
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def feed(self, text: str) -> tuple[str, str]:
        """Take text; return what belongs to the object, and what comes after its end."""
        text, self._held = self._held + text, ""
        out: list[str] = []
        for i, char in enumerate(text):
            if self._in_string:
                out.append(self._string(char))
                continue
            if self._end and char == self._end[0]:
                if text.startswith(self._end, i):
                    self.cut = True
                    return "".join(out), text[i + len(self._end) :]
                if self._end.startswith(text[i:]):
                    self._held = text[i:]
                    return "".join(out), ""
            out.append(char)
            if char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    self.done = True
                    return "".join(out), text[i + 1 :]
        return "".join(out), ""

    def flush(self) -> str:
        """Return what was held back."""
        held, self._held = self._held, ""
        return held

    def _string(self, char: str) -> str:
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._in_string = False
        # A line break inside a string is what models write most of all that JSON does not allow.
        return json.dumps(char)[1:-1] if char < " " else char


def merged(deltas: list[Delta]) -> list[Delta]:
    """Return the same deltas with those of one call put together."""
    out: list[Delta] = []
    for delta in deltas:
        if out and out[-1]["index"] == delta["index"]:
            out[-1] = {**out[-1], "arguments": out[-1]["arguments"] + delta["arguments"]}
        else:
            out.append(delta)
    return out


def _checked(call: Any) -> tuple[str, str, object] | None:
    """Return name, arguments as JSON text and id of a call as parsers give it; None for what is none."""
    if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not call["name"]:
        return None
    arguments = call.get("arguments", call.get("parameters"))
    if arguments is None:
        arguments = {}
    if isinstance(arguments, str):
        text = arguments.strip() or "{}"
        if not isinstance(_loads(text), dict):
            return None
    elif isinstance(arguments, dict):
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    else:
        return None
    return call["name"], text, call.get("id")


def _is_tail(text: str) -> bool:
    return isinstance(_loads('{"":0' + text.strip()), dict) or not text.strip()


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
