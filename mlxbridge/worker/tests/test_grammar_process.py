"""Grammars in a worker process: compiled beside its streams."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from conftest import TINY
from forms import ADD, QUESTION, WEATHER, any_schema, regex, schema
from harness import Process, count


@pytest.fixture
def worker() -> Iterator[Process]:
    process = Process()
    process.load(TINY)
    yield process
    process.close()


def gen(id_: str, text: str, **fields: object) -> dict[str, object]:
    return {"type": "gen", "id": id_, "messages": [{"role": "user", "content": text}], **fields}


def test_a_worker_compiles_beside_its_streams(worker: Process) -> None:
    # Determining that nothing fits all of these takes the compiler more than a second.
    slow = schema({"allOf": [{"type": "string", "pattern": f"a.*b{i}.*"} for i in range(18)]})
    worker.send(gen("slow", QUESTION, grammar=slow), gen("free", "Count from 1 to 100."))
    got = worker.collect(["slow", "free"])
    kinds = [f["type"] for f in worker.seen]
    assert kinds.index("step") < kinds.index("error")
    assert got["free"].text == count(1, 100)
    assert got["slow"].error is not None
    assert (got["slow"].error.code, got["slow"].error.field) == ("invalid_request", "grammar")

    made, fits = any_schema(7)
    worker.send(gen("a", QUESTION, grammar=schema(made)), gen("b", QUESTION, grammar=regex("b(")))
    got = worker.collect(["a", "b"])

    assert fits(json.loads(got["a"].text))
    worker.send(gen("c", "Count from 1 to 20.", tools=[WEATHER, ADD], tool_choice={"name": "add"}))
    assert [call["name"] for call in worker.collect(["c"])["c"].calls] == ["add"]
    assert got["b"].error is not None


def test_a_request_can_be_cancelled_while_its_grammar_is_compiled(worker: Process) -> None:
    slow = schema({"allOf": [{"type": "string", "pattern": f"a.*b{i}.*"} for i in range(18)]})
    worker.send(gen("slow", QUESTION, grammar=slow), {"type": "cancel", "id": "slow"})

    assert worker.wait("done", id="slow")["reason"] == "cancelled"
    worker.send(gen("after", "Count from 1 to 9."))
    assert worker.collect(["after"])["after"].text == count(1, 9)
