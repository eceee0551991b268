"""The worker as a process: frames on descriptors 3 and 4."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
from collections.abc import Iterator

import pytest
from conftest import TINY
from harness import Process

COUNT = ", ".join(str(n) for n in range(1, 301))


def gen(id_: str, text: str, **fields: object) -> dict[str, object]:
    return {"type": "gen", "id": id_, "messages": [{"role": "user", "content": text}], **fields}


@pytest.fixture(scope="module")
def worker() -> Iterator[Process]:
    process = Process()
    process.load(TINY, prefix_bytes=0)
    yield process
    process.close()


@pytest.fixture
def fresh() -> Iterator[Process]:
    process = Process()
    yield process
    process.close()


def test_says_what_it_is_before_and_after_the_model(fresh: Process) -> None:
    ready = fresh.wait("ready")
    loaded = fresh.load(TINY, max_rows=4)

    assert ready["proto"] == 1
    assert ready["device"] == "cpu"
    assert ready["pid"] == fresh.pid
    assert set(ready["versions"]) >= {"python", "mlx", "mlx_lm", "transformers", "tokenizers"}
    assert loaded["weight_bytes"] == 3018240
    assert loaded["kv_bytes_per_token"] == 2048
    assert (loaded["context"], loaded["vocabulary"], loaded["eos"]) == (8192, 2048, [2])
    assert (loaded["architecture"], loaded["has_tools"], loaded["has_thinking"]) == ("qwen3", True, False)
    assert loaded["max_rows"] == 4


def test_counts_to_300_whole_and_exact(worker: Process) -> None:
    worker.send(gen("count", "Count from 1 to 300."))

    got = worker.collect(["count"])["count"]

    assert got.text == COUNT
    assert (got.reason, got.stop) == ("stop", None)
    assert got.usage == {"prompt_tokens": 18, "cached_tokens": 0, "completion_tokens": len(got.tokens)}


def test_frames_of_one_answer_come_in_order(worker: Process) -> None:
    start = len(worker.seen)
    worker.send(gen("order", "Count from 1 to 12."))
    worker.collect(["order"])

    kinds = [f["type"] for f in worker.seen[start:] if f["type"] not in ("stats", "progress")]

    assert kinds[0] == "accepted"
    assert kinds[-1] == "done"
    assert set(kinds[1:-1]) == {"step"}


def test_answers_a_ping_from_the_step_loop(worker: Process) -> None:
    worker.send({"type": "ping", "n": 41})

    assert worker.wait("pong")["n"] == 41


def test_tells_how_it_is_about_once_a_second(worker: Process) -> None:
    stats = worker.wait("stats")

    assert stats["running"] == stats["waiting"] == 0
    assert stats["active_bytes"] > 3_000_000


def test_tokenizes(worker: Process) -> None:
    worker.send({"type": "tokenize", "id": "t", "prompt": "1, 2, 3"})

    assert worker.wait("tokens", id="t")["tokens"] == [21, 16, 225, 22, 16, 225, 23]


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"max_tokens": 0}, "invalid_request", "max_tokens"),
        ({"messages": []}, "invalid_request", "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "invalid_request", "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "invalid_request", "messages[0].content"),
        ({"messages": None}, "invalid_request", "messages"),
        ({"prompt": "x"}, "invalid_request", "prompt"),
        ({"messages": None, "prompt": ""}, "invalid_request", "prompt"),
        ({"messages": None, "tokens": [5, 2048]}, "invalid_request", "tokens"),
        ({"messages": None, "tokens": [7] * 8192}, "context_exceeded", None),
        ({"logit_bias": {"2048": 1}}, "invalid_request", "logit_bias"),
        ({"logit_bias": {"x": 1}}, "invalid_request", "logit_bias"),
        ({"continue": [-1]}, "invalid_request", "continue"),
        ({"temperature": "hot"}, "invalid_request", "temperature"),
        ({"top_k": -1}, "invalid_request", "top_k"),
        ({"top_p": 1.5}, "invalid_request", "top_p"),
        ({"stop": [""]}, "invalid_request", "stop[0]"),
        ({"template_args": {"chat_template": "x"}}, "invalid_request", "template_args"),
        ({"schema": {"type": "object"}}, "unsupported", "schema"),
        ({"tools": [{"x": 1}], "template_args": {"tokenize": False}}, "invalid_request", "template_args"),
        ({"messages": None, "prompt": "\ud800"}, "invalid_request", "prompt"),
    ],
)
def test_bad_requests_get_one_clear_line(
    worker: Process, fields: dict[str, object], code: str, field: str | None
) -> None:
    worker.send({**gen("bad", "hello"), **fields})

    error = worker.wait("error")

    assert (error["id"], error["code"], error.get("field")) == ("bad", code, field)
    assert error["message"]
    assert "\n" not in error["message"]


def test_a_prompt_over_the_context_is_refused_with_both_numbers(worker: Process) -> None:
    worker.send({"type": "gen", "id": "long", "tokens": [7] * 9001})

    message = worker.wait("error")["message"]

    assert "9001 tokens" in message
    assert "8192" in message


def test_a_limit_beyond_all_bounds_is_the_context(worker: Process) -> None:
    worker.send(gen("huge", "Count from 1 to 20.", max_tokens=2**62))

    assert worker.collect(["huge"])["huge"].text == COUNT[: COUNT.index(", 21")]


@pytest.mark.parametrize("poison", ["[" * 20_000 + "]" * 20_000, "1" * 5_000])
def test_what_a_json_parser_cannot_take_fails_its_request_alone(worker: Process, poison: str) -> None:
    worker.send(gen("other", "Count from 1 to 60."))
    worker.wait("accepted")
    body = b'{"type":"gen","id":"deep","messages":[{"role":"user","content":"x"}],"tools":[%s]}' % poison.encode()
    worker.send_raw(struct.pack("<I", len(body)) + body)

    got = worker.collect(["other", "deep"])

    assert got["deep"].error is not None
    assert got["deep"].error.code == "invalid_request"
    assert got["other"].text == COUNT[: COUNT.index(", 61")]


def test_an_id_in_use_is_refused_and_its_owner_goes_on(worker: Process) -> None:
    worker.send(gen("twice", "Count from 1 to 30."), gen("twice", "Count from 1 to 5."))

    error = worker.wait("error")
    got = worker.collect(["twice"])["twice"]

    assert (error["id"], error["code"]) == (None, "invalid_request")
    assert got.reason == "stop"


def test_an_unknown_frame_is_refused_and_no_more(worker: Process) -> None:
    worker.send({"type": "dance"}, {"type": "ping", "n": 5})

    assert worker.wait("error")["id"] is None
    assert worker.wait("pong")["n"] == 5


def test_cancelling_what_is_not_there_says_nothing(worker: Process) -> None:
    start = len(worker.seen)
    worker.send({"type": "cancel", "id": "nobody"}, {"type": "ping", "n": 6})
    worker.wait("pong", n=6)

    assert {f["type"] for f in worker.seen[start:]} <= {"pong", "stats"}


def test_cancel_ends_a_stream_soon_and_the_counters_stand_still(worker: Process) -> None:
    worker.send(gen("long", "Count from 1 to 300."))
    worker.wait("step")
    worker.send({"type": "cancel", "id": "long"})
    done = worker.wait("done", id="long")
    before = worker.wait("stats")["counters"]
    after = worker.wait("stats")["counters"]

    assert done["reason"] == "cancelled"
    assert before["steps"] == after["steps"]


def test_says_at_once_that_it_is_idle_again() -> None:
    process = Process("import mlxworker.loop as l; l.STATS_SECONDS = 3600.0")  # it is not the clock that has it say so
    try:
        process.load(TINY)
        process.send(gen("short", "Count from 1 to 3."))
        process.wait("done")
        while (stats := process.wait("stats"))["running"]:
            pass

        assert stats["counters"]["finished"] == 1
    finally:
        process.close()


def test_its_command_line_says_what_it_is(fresh: Process) -> None:
    fresh.wait("ready")
    shown = subprocess.run(
        ["ps", "-ww", "-o", "args=", "-p", str(fresh.pid)], capture_output=True, text=True, check=True
    )

    assert "mlxworker" in shown.stdout
    assert "--name test" in shown.stdout


def test_a_signal_to_end_ends_it_even_while_it_answers(fresh: Process) -> None:
    fresh.load(TINY)
    fresh.send(gen("long", "Count from 1 to 300."))
    fresh.wait("step")
    os.kill(fresh.pid, signal.SIGINT)
    fresh.wait("step")
    os.kill(fresh.pid, signal.SIGTERM)

    assert fresh.exit_code() == -signal.SIGTERM


def test_an_error_that_nobody_foresaw_is_told_and_ends_it() -> None:
    process = Process(
        "from mlxworker.answers import Answers; absorb = Answers.absorb\n"
        "def broken(self, lane, tokens, out):\n"
        "    if self.counters.generated_tokens > 20: raise ZeroDivisionError('nobody\\nforesaw')\n"
        "    absorb(self, lane, tokens, out)\n"
        "Answers.absorb = broken"
    )
    try:
        process.load(TINY)
        process.send(gen("long", "Count from 1 to 300."))
        fatal = process.wait("fatal")

        assert fatal["message"] == "nobody foresaw"
        assert "ZeroDivisionError" in fatal["trace"]
        assert process.exit_code() == 70
    finally:
        process.close()


def test_a_reader_of_frames_that_breaks_ends_it() -> None:
    process = Process("import json, mlxworker.frames as f; f.json = type('Broken', (), vars(json) | {'loads': abs})")
    try:
        process.wait("ready")
        process.send({"type": "ping", "n": 1})

        assert "frames cannot be read" in process.wait("fatal")["message"]
        assert process.exit_code() == 70
    finally:
        process.close()


def test_broken_frames_end_the_worker(fresh: Process) -> None:
    fresh.wait("ready")
    fresh.send_raw(struct.pack("<I", 5) + b"{nope")

    assert "not JSON" in fresh.wait("fatal")["message"]
    assert fresh.exit_code() == 70


def test_an_oversized_frame_ends_the_worker(fresh: Process) -> None:
    fresh.wait("ready")
    fresh.send_raw(struct.pack("<I", (64 << 20) + 1))

    assert "longer than" in fresh.wait("fatal")["message"]
    assert fresh.exit_code() == 70


def test_another_protocol_ends_the_worker(fresh: Process) -> None:
    fresh.send({"type": "hello", "proto": 99})

    assert "protocol 99" in fresh.wait("fatal")["message"]
    assert fresh.exit_code() == 70


@pytest.mark.parametrize("which", ["lifeline", "out"])
def test_ends_when_the_other_side_is_gone_even_while_it_answers(fresh: Process, which: str) -> None:
    fresh.load(TINY)
    fresh.send(gen("long", "Count from 1 to 300."))
    fresh.wait("step")

    os.close(getattr(fresh, which))
    setattr(fresh, which, os.open(os.devnull, os.O_RDONLY))

    assert fresh.exit_code() == 0


def test_shutdown_ends_it(fresh: Process) -> None:
    fresh.load(TINY)
    fresh.send({"type": "shutdown"})

    assert fresh.exit_code() == 0
