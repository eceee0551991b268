"""What the frames from the other side mean: checked shapes, before anything touches the model."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Any

from mlxworker import constraint
from mlxworker.errors import BAD_MODEL, INVALID, UNSUPPORTED, LoadError, RequestError
from mlxworker.frames import Frame

_TOKEN_ID = re.compile(r"0|-?[1-9][0-9]{0,18}")

VERSION = 1
MAX_ID_BYTES = 128
MAX_STOPS = 16
MAX_STOP_BYTES = 1024
MAX_TOP_LOGPROBS = 20
DEFAULT_ROWS = 32
MAX_ROWS = 4096
MAX_LANES = 8
KV_BITS = (0, 4, 8)
ROLES = ("system", "user", "assistant", "tool")
WIRED = ("off", "weights")
# Levels of memory pressure, as macOS counts them.
NORMAL, WARNING, CRITICAL = 1, 2, 4


@dataclass(frozen=True)
class Load:
    """The load frame. Zero memory_bytes is no limit; where another field is zero the worker chooses."""

    folder: str
    name: str
    memory_bytes: int = 0
    prefix_bytes: int | None = None
    max_rows: int = DEFAULT_ROWS
    prefill_chunk: int = 0
    adapter: str | None = None
    gap_ms: float = 0.0
    lanes: int = 0
    context: int = 0
    wired: str = "weights"
    session_seconds: float = 0.0
    stored_bits: int = 0
    spill_dir: str = ""
    spill_bytes: int = 0
    draft: str | None = None
    kv_bits: int = 0
    speculate: bool = True


@dataclass(frozen=True)
class Change:
    """The set frame. None leaves a thing as it is."""

    number: int = 0
    memory_bytes: int | None = None
    prefix_bytes: int | None = None
    max_rows: int | None = None
    pressure: int | None = None


@dataclass(frozen=True)
class Source:
    """Where the prompt comes from: exactly one of messages, prompt and tokens.

    borders are the lengths of beginnings that others may share, where they were found already; no frame has them.
    """

    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    template_args: dict[str, Any] = field(default_factory=dict)
    prompt: str | None = None
    tokens: list[int] | None = None
    borders: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. None means the model's default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int | None = None


@dataclass(frozen=True)
class Generate:
    """The gen frame. max_tokens counts the tokens of already as well; None is to the end of the context."""

    id: str
    source: Source
    sampling: Sampling = field(default_factory=Sampling)
    already: list[int] = field(default_factory=list)
    max_tokens: int | None = None
    stop: list[str] = field(default_factory=list)
    logprobs: bool = False
    top_logprobs: int = 0
    session: str = ""
    grammar: constraint.Grammar | None = None
    request: str = ""  # names all attempts at one answer: the ids of its tool calls come from it
    is_chat: bool = False  # its prompt came through the chat template
    tools: list[dict[str, Any]] = field(default_factory=list)  # that it may call
    single_tool_call: bool = False  # the answer ends with its first
    tool_choice: str | dict[str, Any] = "auto"  # "auto", "none", "required" or {"name": …}
    form: Any = None  # its compiled grammar, where there is one already; no frame has it


def frame_id(frame: Frame) -> str:
    """Return the id of a frame. Raises RequestError when it has none."""
    value = frame.get("id")
    if not isinstance(value, str) or not value or len(value.encode("utf-8", "replace")) > MAX_ID_BYTES:
        raise RequestError(INVALID, f"id must be a string of 1 to {MAX_ID_BYTES} bytes", "id")
    return value


def parse_load(frame: Frame) -> Load:
    """Return the load frame. Raises LoadError when it cannot be read."""
    folder = frame.get("dir")
    if not isinstance(folder, str) or not folder:
        raise LoadError(BAD_MODEL, "dir is missing")
    try:
        prefix = _integer(frame, "prefix_bytes", 0, 1 << 62)
        options = _object(frame, "options")
        return Load(
            folder=folder,
            name=str(frame.get("name") or folder),
            memory_bytes=_integer(frame, "memory_bytes", 0, 1 << 62) or 0,
            prefix_bytes=prefix,
            max_rows=_integer(frame, "max_rows", 0, MAX_ROWS) or DEFAULT_ROWS,
            prefill_chunk=_integer(frame, "prefill_chunk", 0, 1 << 20) or 0,
            adapter=_text(frame, "adapter") or None,
            gap_ms=_number(options, "gap_ms", 0, 60_000) or 0.0,
            lanes=_integer(options, "lanes", 0, MAX_LANES) or 0,
            context=_integer(options, "context", 0, 1 << 31) or 0,
            wired=_choice(options, "wired", WIRED) or "weights",
            session_seconds=_number(options, "session_seconds", 0, 1e9) or 0.0,
            stored_bits=_choice(options, "stored_bits", KV_BITS) or 0,
            spill_dir=_text(options, "spill_dir"),
            spill_bytes=_integer(options, "spill_bytes", 0, 1 << 62) or 0,
            draft=_text(frame, "draft") or None,
            kv_bits=_choice(frame, "kv_bits", KV_BITS) or 0,
            speculate=_choice(options, "speculate", ("auto", "off")) != "off",
        )
    except RequestError as e:
        raise LoadError(BAD_MODEL, e.message) from e


def parse_set(frame: Frame) -> Change:
    """Return the set frame. Raises RequestError that names the field."""
    pressure = _integer(frame, "pressure", NORMAL, CRITICAL)
    if pressure not in (None, NORMAL, WARNING, CRITICAL):
        raise RequestError(INVALID, f"pressure must be {NORMAL}, {WARNING} or {CRITICAL}, not {pressure}", "pressure")
    return Change(
        number=_integer(frame, "n", 0, 1 << 62) or 0,
        memory_bytes=_integer(frame, "memory_bytes", 1, 1 << 62),
        prefix_bytes=_integer(frame, "prefix_bytes", 0, 1 << 62),
        max_rows=_integer(frame, "max_rows", 1, MAX_ROWS),
        pressure=pressure,
    )


def parse_source(frame: Frame) -> Source:
    """Return the prompt of a gen or tokenize frame. Raises RequestError."""
    given = [name for name in ("messages", "prompt", "tokens") if frame.get(name) is not None]
    if len(given) != 1:
        claim = "messages, prompt or tokens is missing" if not given else " and ".join(given) + " exclude each other"
        raise RequestError(INVALID, claim, given[-1] if given else "messages")
    if frame.get("messages") is not None:
        return Source(
            messages=_messages(frame["messages"]),
            tools=_tools(frame.get("tools")),
            template_args=_object(frame, "template_args"),
        )
    if frame.get("prompt") is not None:
        prompt = frame["prompt"]
        if not isinstance(prompt, str) or not prompt:
            raise RequestError(INVALID, "prompt must be a text that is not empty", "prompt")
        return Source(prompt=prompt)
    return Source(tokens=_tokens(frame, "tokens", least=1))


def parse_generate(frame: Frame) -> Generate:
    """Return the gen frame. Raises RequestError that names the field."""
    for name in ("schema", "response_format", "images"):
        if frame.get(name):
            raise RequestError(UNSUPPORTED, f"this worker has no {name}", name)
    source, choice = parse_source(frame), constraint.parse_tool_choice(frame)
    if choice == "none":
        source = replace(source, tools=None)
    return Generate(
        id=frame_id(frame),
        source=source,
        sampling=parse_sampling(frame),
        already=_tokens(frame, "continue", least=0),
        max_tokens=_integer(frame, "max_tokens", 1, 1 << 63),
        stop=_stops(frame.get("stop")),
        logprobs=bool(frame.get("logprobs")),
        top_logprobs=_integer(frame, "top_logprobs", 0, MAX_TOP_LOGPROBS) or 0,
        session=_text(frame, "session"),
        grammar=constraint.parse_grammar(frame),
        request=_text(frame, "request"),
        is_chat=source.messages is not None,
        tools=source.tools or [],
        single_tool_call=bool(frame.get("single_tool_call")),
        tool_choice=choice,
    )


def parse_sampling(frame: Frame) -> Sampling:
    """Return the sampling fields of a gen frame. Raises RequestError that names the field."""
    return Sampling(
        temperature=_number(frame, "temperature", 0, 100),
        top_p=_number(frame, "top_p", 0, 1),
        top_k=_integer(frame, "top_k", 0, 1 << 63),
        min_p=_number(frame, "min_p", 0, 1),
        repetition_penalty=_number(frame, "repetition_penalty", 0.01, 10),
        presence_penalty=_number(frame, "presence_penalty", -100, 100),
        frequency_penalty=_number(frame, "frequency_penalty", -100, 100),
        logit_bias=_logit_bias(frame.get("logit_bias")),
        seed=_integer(frame, "seed", -(1 << 63), (1 << 64) - 1),
    )


def _integer(frame: Frame, name: str, least: int, most: int) -> int | None:
    value = frame.get(name)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise RequestError(INVALID, f"{name} must be a whole number", name)
    if not least <= value <= most:
        claim = f"{least} or more" if value < least else f"at most {most}"
        raise RequestError(INVALID, f"{name} must be {claim}, not {value}", name)
    return value


def _number(frame: Frame, name: str, least: float, most: float) -> float | None:
    value = frame.get(name)
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise RequestError(INVALID, f"{name} must be a number", name)
    if not least <= value <= most:
        raise RequestError(INVALID, f"{name} must be from {least:g} to {most:g}, not {value:g}", name)
    return float(value)


def _choice(frame: Frame, name: str, known: tuple[Any, ...]) -> Any:
    value = frame.get(name)
    if value is None:
        return None
    for one in known:
        if type(value) is type(one) and value == one:
            return one
    *most, last = map(str, known)
    raise RequestError(INVALID, f"{name} must be {', '.join(most)} or {last}, not {str(value)[:40]}", name)


def _text(frame: Frame, name: str) -> str:
    value = frame.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RequestError(INVALID, f"{name} must be a text", name)
    return value


def _object(frame: Frame, name: str) -> dict[str, Any]:
    value = frame.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RequestError(INVALID, f"{name} must be an object", name)
    return value


def _tokens(frame: Frame, name: str, least: int) -> list[int]:
    value = frame.get(name)
    if value is None:
        value = []
    if not isinstance(value, list) or not all(type(t) is int for t in value):
        raise RequestError(INVALID, f"{name} must be a list of token ids", name)
    if len(value) < least:
        raise RequestError(INVALID, f"{name} must hold at least {least}", name)
    return value


def _stops(value: object) -> list[str]:
    if value is None:
        return []
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        raise RequestError(INVALID, f"stop must be a list of at most {MAX_STOPS} texts", "stop")
    for i, stop in enumerate(stops):
        if not isinstance(stop, str) or not 1 <= len(stop.encode("utf-8", "replace")) <= MAX_STOP_BYTES:
            raise RequestError(INVALID, f"stop[{i}] must be 1 to {MAX_STOP_BYTES} bytes long", f"stop[{i}]")
    return stops


def _logit_bias(value: object) -> dict[int, float]:
    if value is None:
        return {}
    claim = "logit_bias must map token ids to numbers"
    if not isinstance(value, dict):
        raise RequestError(INVALID, claim, "logit_bias")
    out: dict[int, float] = {}
    for key, bias in value.items():
        if not isinstance(bias, (int, float)) or isinstance(bias, bool) or not math.isfinite(bias):
            raise RequestError(INVALID, claim, "logit_bias")
        # One token has one name: "00" and "+1" would be others for those of "0" and "1".
        if not _TOKEN_ID.fullmatch(key):
            raise RequestError(INVALID, claim, "logit_bias")
        out[int(key)] = float(bias)
    return out


def _messages(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise RequestError(INVALID, "messages must hold at least one message", "messages")
    for i, message in enumerate(value):
        where = f"messages[{i}]"
        if not isinstance(message, dict):
            raise RequestError(INVALID, f"{where} must be an object", where)
        if message.get("role") not in ROLES:
            claim = f"{where}.role must be system, user, assistant or tool, not {str(message.get('role'))[:40]!r}"
            raise RequestError(INVALID, claim, f"{where}.role")
    return value


def _tools(value: object) -> list[dict[str, Any]] | None:
    if value is None or value == []:
        return None
    if not isinstance(value, list) or not all(isinstance(t, dict) for t in value):
        raise RequestError(INVALID, "tools must be a list of objects", "tools")
    return value
