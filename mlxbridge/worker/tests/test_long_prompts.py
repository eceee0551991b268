"""Long prompts: refused before they are tokenised, or tokenised while everybody else goes on."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from harness import PATIENCE, Frame, Process, ask_frame

from mlxworker import frames, logprobs, model, protocol, rows, template, tokenizing
from mlxworker.adapter import Api
from mlxworker.errors import RequestError
from mlxworker.inbox import Inbox
from mlxworker.loop import Loop
from mlxworker.model import Model

LONG = "7, " * 600
SHORT = ", ".join(str(n) for n in range(1, 21))


class Recorder(frames.Writer):
    """A writer whose frames a test can look at, as they would be on the wire."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.sent: list[Frame] = []

    def put(self, frame: Frame) -> None:
        self.sent.append(json.loads(frames.encode(frame)[4:]))

    def flush(self) -> None:
        pass


class Served:
    """A loop with a model, turned by hand."""

    def __init__(self, api: Api) -> None:
        read, self._write = os.pipe()
        self.inbox, self.writer = Inbox(read), Recorder()
        self.loop = Loop(api, self.inbox, self.writer, os.getpid())
        self.send({"type": "load", "dir": str(TINY), "name": "tiny"})
        self.until(lambda: bool(self.of("loaded")))

    def send(self, *given: Frame) -> None:
        for frame in given:
            self.inbox.put(frame)

    def of(self, kind: str, id_: str | None = None) -> list[Frame]:
        return [f for f in self.writer.sent if f["type"] == kind and (id_ is None or f.get("id") == id_)]

    def text(self, id_: str) -> str:
        return "".join(row[1] for f in self.of("step") for row in f["rows"] if row[0] == id_)

    def until(self, claim: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if claim():
                return
            self.loop.turn()
        raise AssertionError(f"it never came to that: {self.writer.sent[-3:]}")

    def close(self) -> None:
        os.close(self._write)


@pytest.fixture
def served(api: Api) -> Iterator[Served]:
    made = Served(api)
    yield made
    made.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Long prompts are not tokenised before it opens."""
    opened, real = threading.Event(), template.tokens_of

    def gated(model: Model, source: protocol.Source) -> list[int]:
        if source.prompt == LONG:
            assert threading.current_thread() is not threading.main_thread()
            opened.wait()
        return real(model, source)

    monkeypatch.setattr(template, "tokens_of", gated)
    monkeypatch.setattr(tokenizing, "_LONG_CHARACTERS", len(LONG))
    yield opened
    opened.set()


def gen(id_: str, **fields: object) -> Frame:
    return {"type": "gen", "id": id_, "messages": [{"role": "user", "content": "Count from 1 to 20."}], **fields}


def long(id_: str, **fields: object) -> Frame:
    return {"type": "gen", "id": id_, "prompt": LONG, "max_tokens": 1, **fields}


def test_others_are_answered_while_a_long_prompt_is_tokenised(served: Served, gate: threading.Event) -> None:
    served.send(long("long"), gen("short"), {"type": "ping", "n": 3})
    served.until(lambda: bool(served.of("done", "short")))

    assert served.text("short") == SHORT
    assert served.of("pong")
    assert not served.of("accepted", "long")
    gate.set()
    served.until(lambda: bool(served.of("done", "long")))
    assert served.of("done", "long")[0]["usage"]["prompt_tokens"] == 1800


def test_a_prompt_that_is_tokenised_is_among_those_that_wait(served: Served, gate: threading.Event) -> None:
    served.send(long("long"))
    served.until(lambda: any(f["waiting"] == 1 for f in served.of("stats")))
    gate.set()
    served.until(lambda: bool(served.of("done", "long")))


def test_cancel_while_a_prompt_is_tokenised_ends_it_and_frees_its_id(served: Served, gate: threading.Event) -> None:
    served.send(long("a"), long("b"), {"type": "cancel", "id": "a"}, {"type": "cancel", "id": "b"}, gen("a"))
    served.until(lambda: len(served.of("done", "a")) == 2)
    gate.set()
    served.send(long("last"))
    served.until(lambda: bool(served.of("done", "last")))

    assert [f["reason"] for f in served.of("done", "a")] == ["cancelled", "stop"]
    assert [f["reason"] for f in served.of("done", "b")] == ["cancelled"]
    assert len(served.of("accepted", "a")) == 1
    assert served.text("a") == SHORT
    assert served.loop.engine is not None
    assert served.loop.engine.counters.cancelled == 2


def test_an_id_whose_prompt_is_tokenised_is_in_use(served: Served, gate: threading.Event) -> None:
    served.send(long("twice"), gen("twice"))
    served.until(lambda: bool(served.of("error")))
    gate.set()
    served.until(lambda: bool(served.of("done", "twice")))

    assert [(f["id"], f["code"]) for f in served.of("error")] == [(None, "invalid_request")]


def test_a_long_prompt_is_refused_as_a_short_one_is(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> list[int]:
        raise ZeroDivisionError("tokenizer")

    served.send(long("over", prompt="7," * 20_000), long("args", messages=[{"role": "user"}]))
    served.send({**gen("odd"), "messages": [{"role": "user", "content": [{"type": "x" * 40_000}]}]})
    served.until(lambda: len(served.of("error")) == 3)
    monkeypatch.setattr(template, "tokens_of", broken)
    served.send(long("broken"))
    served.until(lambda: len(served.of("error")) == 4)

    codes = {f["id"]: f["code"] for f in served.of("error")}
    assert codes == {
        "over": "context_exceeded",
        "args": "invalid_request",
        "odd": "unsupported",
        "broken": "internal",
    }
    assert "the prompt has 40000 tokens" in served.of("error", "over")[0]["message"]
    monkeypatch.undo()
    served.send(gen("over"))
    served.until(lambda: bool(served.of("done", "over")))


def test_counts_a_long_prompt_while_others_go_on(served: Served, gate: threading.Event) -> None:
    served.send({"type": "tokenize", "id": "t", "prompt": LONG}, {"type": "ping", "n": 4})
    served.until(lambda: bool(served.of("pong")))
    assert not served.of("tokens")
    gate.set()
    served.until(lambda: bool(served.of("tokens", "t")))

    assert served.loop.engine is not None
    assert served.of("tokens", "t")[0]["tokens"] == served.loop.engine.model.tokenizer.encode(LONG)


def test_a_step_that_cannot_be_written_fails_its_row_and_no_other(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = logprobs.gather, 0

    def poison(*arguments: Any) -> list[dict[str, Any]]:
        nonlocal calls
        calls += 1
        found = real(*arguments)
        return [{**entry, "l": float("nan")} if calls > 3 else entry for entry in found]

    monkeypatch.setattr(logprobs, "gather", poison)
    served.send(gen("bad", logprobs=True), gen("last", logprobs=True, max_tokens=4), gen("good"))
    served.until(lambda: bool(served.of("done", "good")))

    assert served.text("good") == SHORT
    assert [(f["id"], f["code"]) for f in served.of("error")] == [("last", "internal"), ("bad", "internal")]
    assert not served.of("done", "bad") + served.of("done", "last")
    served.send(gen("bad"))
    served.until(lambda: bool(served.of("done", "bad")))


# -- the guard -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields", [{"prompt": "a " * 3_400_000}, {"messages": [{"role": "user", "content": "世" * 100_000}]}]
)
def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenised(tiny: Model, fields: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as e:
        rows.make_row(tiny, ask_frame(id="x", **fields))

    assert e.value.code == "context_exceeded"
    claim = "the prompt has more than 8192 tokens: the model's context of 8192 has to hold prompt and answer"
    assert e.value.message == claim


def test_a_text_that_may_fit_is_counted(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = max(range(tiny.vocabulary), key=lambda t: len(tiny.words.token_bytes(t)))
    token = tiny.words.token_bytes(longest)
    monkeypatch.setattr(tiny, "context", 8)
    text = token.decode() * 8

    assert tiny.tokenizer.encode(text) == [longest] * 8
    with pytest.raises(RequestError, match="has 8 tokens"):
        rows.make_row(tiny, ask_frame(id="x", prompt=text))
    assert len(rows.make_row(tiny, ask_frame(id="x", prompt=token.decode() * 7)).prompt) == 7
    with pytest.raises(RequestError, match="more than 8 tokens"):
        rows.make_row(tiny, ask_frame(id="x", prompt=text + "a"))


def test_a_template_makes_the_same_tokens_in_two_steps_as_in_one(tiny: Model) -> None:
    messages = [{"role": "user", "content": "1 <|im_end|> 2"}]

    made = template.tokens_of(tiny, protocol.parse_source({"messages": messages}))

    assert made == tiny.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)


def _added(tokenizer: Frame) -> None:
    tokenizer["added_tokens"][0]["rstrip"] = True


def _few_bytes(tokenizer: Frame) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["never" * 2] = vocabulary.pop("¡")


CHANGES: list[tuple[Callable[[Frame], object], int | None]] = [
    (lambda t: None, 13),
    (lambda t: t.update(normalizer={"type": "NFC"}), 39),
    (lambda t: t.update(normalizer={"type": "Strip", "strip_left": True, "strip_right": True}), None),
    (lambda t: t["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed"), None),
    (_added, None),
    (_few_bytes, None),
]


@pytest.mark.parametrize(("change", "most"), CHANGES)
def test_the_most_text_in_a_token_is_known_only_where_it_is_certain(
    api: Api, tmp_path: Path, change: Callable[[Frame], object], most: int | None
) -> None:
    shutil.copytree(TINY, tmp_path / "m")
    file = tmp_path / "m" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    change(tokenizer)
    file.write_text(json.dumps(tokenizer))

    assert model.load(api, protocol.Load(folder=str(tmp_path / "m"), name="m")).most_token_bytes == most


def test_a_worker_refuses_millions_of_words_and_goes_on() -> None:
    process = Process()
    try:
        process.load(TINY)
        process.send(gen("other"), {"type": "gen", "id": "huge", "prompt": "a " * 3_400_000})
        got = process.collect(["other", "huge"])

        assert got["other"].text == SHORT
        assert got["huge"].error is not None
        assert got["huge"].error.code == "context_exceeded"
    finally:
        process.close()
