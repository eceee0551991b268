"""Vectors of texts: the same alone and in any company, and never at the cost of those who wait for a token."""

from __future__ import annotations

import base64
import dataclasses
import math
import struct
import time
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import pytest
from conftest import TINY
from harness import Driver, Frame, Process, ask, count

from mlxworker import embedding, protocol, template
from mlxworker.asides import Asides
from mlxworker.embedding import Embedder
from mlxworker.errors import RequestError
from mlxworker.model import Model
from mlxworker.tokenizing import Job, Tokenizing

TEXTS = ["Norway", "a fox", "Count from 1 to 20.", "The capital of Norway is Oslo.", "x " * 40, "fox " * 300]


def numbers(vector: str) -> list[float]:
    raw = base64.b64decode(vector)
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))


def tokens(model: Model, texts: list[str]) -> list[list[int]]:
    return [template.tokens_of(model, protocol.Source(prompt=t)) for t in texts]


def vectors(model: Model, inputs: list[list[int]], pooling: str = "last", most: int = 256) -> list[list[float]]:
    embedder = Embedder(model)
    embedder.add("e", inputs, pooling)
    while embedder.busy:
        task, computed, error = embedder.step(most)
        assert error is None
        assert computed > 0
    return [numbers(v) for v in task.vectors]


def expected(model: Model, ids: list[int], pooling: str) -> list[float]:
    hidden = model.net.model(mx.array([ids]))[0]
    pooled = hidden[-1] if pooling == "last" else hidden.mean(axis=0)
    return [float(v) for v in (pooled / mx.linalg.norm(pooled)).tolist()]


def furthest(a: list[float], b: list[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("most", [1, 7, 64, 4096])
def test_vectors_are_the_same_alone_in_a_batch_and_in_pieces(tiny: Model, pooling: str, most: int) -> None:
    inputs = tokens(tiny, TEXTS if most > 1 else TEXTS[:4])

    got = vectors(tiny, inputs, pooling, most)

    assert len(got) == len(inputs)
    for vector, ids in zip(got, inputs, strict=True):
        assert len(vector) == 128
        assert math.isclose(math.hypot(*vector), 1, abs_tol=1e-5)
        assert furthest(vector, expected(tiny, ids, pooling)) < 1e-5
    assert len({tuple(v) for v in got}) == len(got)


def test_padding_changes_nothing(small: Model) -> None:
    inputs = tokens(small, [f"{'fox ' * n}Oslo" for n in range(2, 14)])
    for pooling in embedding.POOLINGS:
        alone = [vectors(small, [i], pooling)[0] for i in inputs]
        together = vectors(small, inputs[::-1], pooling)[::-1]
        assert max(furthest(a, b) for a, b in zip(alone, together, strict=True)) < 1e-5


def test_no_step_computes_much_more_than_it_may(tiny: Model) -> None:
    embedder = Embedder(tiny)
    embedder.add("e", tokens(tiny, TEXTS), "last")
    sizes = []
    while embedder.busy:
        sizes.append(embedder.step(32)[1])

    assert sum(sizes) == sum(map(len, tokens(tiny, TEXTS)))
    assert max(sizes) <= 32


def test_every_row_of_a_group_is_planned(tiny: Model) -> None:
    embedder = Embedder(tiny)
    embedder.add("e", [[5, 6, 7]] * 40, "last")

    planned = embedder.next_bytes(128)

    assert planned >= 40 * tiny.kv.bytes(3)
    assert embedder.step(128)[1] == 120


def test_requests_take_turns(tiny: Model) -> None:
    embedder = Embedder(tiny)
    embedder.add("long", tokens(tiny, ["fox " * 2000]), "last")
    embedder.add("short", tokens(tiny, ["fox"]), "last")
    embedder.step(64)
    embedder.step(64)

    assert not embedder.is_live("short")
    assert embedder.is_live("long")
    assert embedder.cancel("long")
    assert not embedder.busy


def test_one_long_input_at_a_time_holds_keys_and_values(tiny: Model) -> None:
    embedder = Embedder(tiny)
    for i in range(4):
        embedder.add(f"long{i}", tokens(tiny, ["fox " * 300] * 2), "last")
    embedder.add("short", tokens(tiny, ["fox"] * 40), "last")
    done = 0
    while embedder.busy:
        embedder.next_bytes(64)
        task, _, error = embedder.step(64)
        assert error is None
        assert sum(t.long is not None for t in embedder._tasks) <= 1
        done += not embedder.is_live(task.id)

    assert done == 5


def test_a_model_without_hidden_states_says_so(tiny: Model) -> None:
    class Bare:
        def __call__(self, *_: Any, **__: Any) -> None: ...

    class Logits:
        model = staticmethod(lambda ids, cache: mx.zeros((2, 2)))

    with pytest.raises(RequestError, match="hidden states") as e:
        Embedder(dataclasses.replace(tiny, net=Bare())).add("e", [[1]], "last")
    assert e.value.code == "unsupported"
    embedder = Embedder(tiny)
    embedder.add("e", [[1]], "last")
    embedder._part = Logits.model
    error = embedder.step(8)[2]
    assert error is not None
    assert error.code == "unsupported"
    assert not embedder.busy


@pytest.mark.parametrize(
    ("fields", "field", "part"),
    [
        ({}, "inputs", "1 to 256"),
        ({"inputs": []}, "inputs", "1 to 256"),
        ({"inputs": [{"prompt": "x"}] * 257}, "inputs", "1 to 256"),
        ({"inputs": ["x"]}, "inputs[0]", "an object"),
        ({"inputs": [{"prompt": "x"}, {"prompt": ""}]}, "inputs[1]", "not empty"),
        ({"inputs": [{"prompt": "x"}, {}]}, "inputs[1]", "is missing"),
        ({"inputs": [{"prompt": "x"}], "pooling": "max"}, "pooling", "last or mean"),
    ],
)
def test_a_bad_frame_is_refused(fields: dict[str, Any], field: str, part: str) -> None:
    with pytest.raises(RequestError) as e:
        embedding.parse_embed({"type": "embed", "id": "e", **fields})

    assert (e.value.code, e.value.field) == ("invalid_request", field)
    assert part in e.value.message


@pytest.fixture(scope="module")
def worker() -> Iterator[Process]:
    process = Process()
    features = process.load(TINY)["features"]
    assert features["embeddings"] is True
    assert features["grammar"] is True
    yield process
    process.close()


def gen(id_: str, text: str, **fields: object) -> dict[str, object]:
    return {"type": "gen", "id": id_, "messages": [{"role": "user", "content": text}], **fields}


def test_a_worker_embeds_beside_its_streams(worker: Process, tiny: Model) -> None:
    inputs = [{"prompt": t} for t in TEXTS[:-1]] + [{"tokens": [5, 6, 7]}]
    start = len(worker.seen)
    worker.send(gen("count", "Count from 1 to 100."), {"type": "embed", "id": "e", "inputs": inputs, "pooling": "mean"})
    worker.collect(["count"])
    frames = worker.seen[start:]
    got = next((f for f in frames if f["type"] == "embedding"), None) or worker.wait("embedding")

    ids = [*tokens(tiny, TEXTS[:-1]), [5, 6, 7]]
    assert got["id"] == "e"
    assert got["prompt_tokens"] == sum(map(len, ids))
    for vector, each in zip(got["vectors"], ids, strict=True):
        assert furthest(numbers(vector), expected(tiny, each, "mean")) < 1e-5
    text = "".join(row[1] for f in frames if f["type"] == "step" for row in f["rows"])
    assert text == count(1, 100)


def test_long_inputs_do_not_stop_a_stream(worker: Process) -> None:
    inputs = [{"prompt": "fox " * 2000}] * 2
    worker.send(gen("count", "Count from 1 to 60."), {"type": "embed", "id": "e", "inputs": inputs})
    start = len(worker.seen)
    worker.wait("embedding")

    # A step computes 128 tokens of a prompt at most while somebody decodes: 4,000 take 31 steps and more.
    kinds = [f["type"] for f in worker.seen[start:]]
    assert kinds.count("step") >= 31
    if "done" not in kinds:
        worker.collect(["count"])


def test_embeddings_can_be_cancelled_at_every_stage(worker: Process) -> None:
    ask = {"type": "embed", "id": "e", "inputs": [{"prompt": "fox " * 4000}] * 8}
    worker.send(ask, {"type": "cancel", "id": "e"})
    assert worker.wait("done", id="e")["reason"] == "cancelled"
    worker.send(ask, {"type": "embed", "id": "small", "inputs": [{"prompt": "fox"}]})
    worker.wait("embedding", id="small")  # so that e is being computed
    worker.send({"type": "cancel", "id": "e"}, {"type": "cancel", "id": "e"})
    assert worker.wait("done", id="e")["reason"] == "cancelled"
    worker.send(gen("after", "Count from 1 to 9."))
    assert worker.collect(["after"])["after"].text == count(1, 9)
    assert not [f for f in worker.seen if f["type"] == "embedding" and f["id"] == "e" and len(f["vectors"]) == 8]


def test_what_is_too_long_or_twice_is_refused(worker: Process) -> None:
    worker.send({"type": "embed", "id": "l", "inputs": [{"prompt": "fox"}, {"tokens": [5] * 8193}]})
    error = worker.wait("error", id="l")
    assert (error["code"], error["field"]) == ("context_exceeded", "inputs[1]")
    worker.send({"type": "embed", "id": "v", "inputs": [{"tokens": [2048]}]})
    assert worker.wait("error", id="v")["field"] == "inputs[0]"
    ask = {"type": "embed", "id": "d", "inputs": [{"prompt": "fox " * 1500}]}
    worker.send(ask, ask)
    assert "in use" in worker.wait("error", id=None)["message"]
    worker.wait("embedding", id="d")


class Deaf:
    """A writer that keeps what it is given."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def put(self, frame: Frame) -> None:
        self.frames.append(frame)


def test_rows_wait_for_the_room_of_a_long_input_under_way(tiny: Model) -> None:
    length, chunk = 4000, 64
    kv = tiny.budget(0).kv.bytes(length)
    row = ask("count", "Count from 1 to 60.")
    # Room for the input and a little, or for the row and a little, not for both.
    driver = Driver(tiny, memory_bytes=0, prefill_chunk=chunk)
    free = driver.engine.budget.weights + driver.engine.budget.spare + kv + chunk * 48 * driver.engine.budget.hidden
    driver.engine.resize(free + tiny.kv.bytes(256) // 2)
    writer: Any = Deaf()
    done: list[Job] = []
    asides = Asides(driver.engine, Tokenizing(tiny, done.append), writer)
    asides.handle({"type": "embed", "id": "e", "inputs": [{"tokens": [5] * length}]})
    while not done:
        time.sleep(0.001)
    asides.tokenized(done[0])
    assert asides.step() is None
    assert not writer.frames

    driver.add(row)
    while asides.busy:
        driver.step()
        assert driver.engine.running == 0
        assert asides.step() is None
    driver.run()

    assert [f["type"] for f in writer.frames] == ["embedding"]
    assert driver.answers["count"].text == count(1, 60)
    assert driver.answers["count"].error is None


def test_memory_that_is_not_there_is_said() -> None:
    process = Process()
    process.load(TINY, memory_bytes=24 << 20)
    process.send({"type": "embed", "id": "e", "inputs": [{"tokens": [5] * 8000}]})
    error = process.wait("error", id="e")
    assert error["code"] == "too_large"
    process.send({"type": "embed", "id": "f", "inputs": [{"tokens": [5] * 80}]})
    process.wait("embedding", id="f")
    process.close()


def test_tokens_become_text_again(worker: Process) -> None:
    worker.send({"type": "tokenize", "id": "t", "prompt": "Oslo é\n 7 🦊"})
    ids = worker.wait("tokens", id="t")["tokens"]
    worker.send({"type": "detokenize", "id": "d", "tokens": ids})
    assert worker.wait("text", id="d")["text"] == "Oslo é\n 7 🦊"
    for bad in (None, ["a"], [-1], [2048], [5] * 9000):
        worker.send({"type": "detokenize", "id": "d", "tokens": bad})
        error = worker.wait("error", id="d")
        assert (error["code"], error["field"]) == ("invalid_request", "tokens")
