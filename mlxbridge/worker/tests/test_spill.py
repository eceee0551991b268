"""Prefixes on disk: found again by the next worker of the same model, ignored and removed when they are not right."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hybrid
import mlx.core as mx
import pytest
from harness import PATIENCE, Driver, Process
from mlx_lm.models.cache import ArraysCache, KVCache, RotatingKVCache
from spilling import FILL, ROOM, disk, driver_of, ended, files, say, settle

from mlxworker import entryfile, model, protocol, sharing, spill
from mlxworker.adapter import Api
from mlxworker.errors import LoadError
from mlxworker.model import Model
from mlxworker.prefix import PrefixStore
from mlxworker.spill import Spill


@pytest.fixture(params=["tiny", "tiny 8 bit", "lfm2", "gemma3_text"])
def served(request: pytest.FixtureRequest, tiny: Model, api: Api, tmp_path: Path) -> Iterator[tuple[Model, int]]:
    if request.param.startswith("tiny"):
        yield tiny, 8 if request.param.endswith("bit") else 0
        return
    config = next(c for c in (hybrid.CONVOLUTION, hybrid.WINDOW) if c["model_type"] == request.param)
    yield model.load(api, protocol.Load(folder=str(hybrid.make(tmp_path / "m", config)), name="m")), 0


def test_the_next_worker_goes_on_where_this_one_ended(served: tuple[Model, int], tmp_path: Path) -> None:
    m, bits = served
    cold = Driver(m).run(say("x", FILL))[0]
    first = ended(driver_of(m, tmp_path / "d", stored_bits=bits))
    first = driver_of(m, tmp_path / "d", stored_bits=bits)
    first.run(say("a", FILL))
    ended(first)

    second = driver_of(m, tmp_path / "d", stored_bits=bits)
    settle(second)
    assert len(disk(second)) == len(files(tmp_path / "d")) > 0
    got = second.run(say("b", FILL))[0]
    ended(second)

    assert got.usage["cached_tokens"] == len(FILL) - 1
    if not bits:
        assert got.tokens == cold.tokens
    assert second.engine.counters.prompt_tokens == 1
    assert second.engine.prefix.outside == 0


def test_what_memory_has_no_room_for_comes_back(tiny: Model, tmp_path: Path) -> None:
    prompts = [[*range(40 + 100 * i, 140 + 100 * i)] * 4 for i in range(8)]
    driver = driver_of(tiny, tmp_path, prefix_bytes=1700 * 2048)
    for i, p in enumerate(prompts):
        driver.run(say(f"a{i}", p))
        settle(driver)
    assert driver.engine.prefix.match(prompts[0]) == 0

    got = driver.run(*[say(f"b{i}", p) for i, p in enumerate(prompts)])
    ended(driver)

    assert [a.usage["cached_tokens"] for a in got] == [399] * 8
    for i, p in enumerate(prompts):
        assert got[i].tokens == driver.answers[f"a{i}"].tokens == Driver(tiny).run(say("x", p))[0].tokens
    assert driver.engine.prefix.nbytes <= 1700 * 2048


def test_what_memory_refuses_when_it_was_read_is_no_file_any_more(tiny: Model, tmp_path: Path) -> None:
    first = driver_of(tiny, tmp_path)
    first.run(say("a", FILL))
    ended(first)
    second = driver_of(tiny, tmp_path)
    settle(second)
    assert len(disk(second)) == len(files(tmp_path)) > 0
    second.add(say("b", FILL))
    second.until(lambda: disk(second)._loading is not None)
    second.engine.prefix.budget = 0
    second.run()
    settle(second)
    left, records = len(files(tmp_path)), len(disk(second))
    ended(second)

    assert left == records
    assert second.answers["b"].tokens == Driver(tiny).run(say("x", FILL))[0].tokens


def test_while_one_is_read_others_go_on(tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = driver_of(tiny, tmp_path)
    first.run(say("a", FILL))
    ended(first)
    gate = threading.Event()
    read = entryfile.read

    def slow(file: Path, identity: str, whole: bool) -> Any:
        if whole:
            assert gate.wait(PATIENCE)
        return read(file, identity, whole)

    monkeypatch.setattr(entryfile, "read", slow)
    driver = driver_of(tiny, tmp_path)
    settle(driver)
    driver.add(say("b", FILL), say("c", FILL), say("other", [5, 6, 7]))
    driver.until(lambda: driver.answers["other"].reason != "")
    assert driver.answers["b"].tokens == driver.answers["c"].tokens == []
    driver.engine.cancel("b")
    driver.step()
    assert driver.answers["b"].reason == "cancelled"
    gate.set()
    driver.run()
    ended(driver)

    assert driver.answers["c"].usage["cached_tokens"] == len(FILL) - 1
    assert driver.answers["c"].tokens == Driver(tiny).run(say("x", FILL))[0].tokens


def test_a_disk_that_does_not_answer_is_not_waited_for(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = driver_of(tiny, tmp_path)
    first.run(say("a", FILL))
    ended(first)
    driver = driver_of(tiny, tmp_path)
    settle(driver)
    gate = threading.Event()
    answered: list[Path] = []

    def hung(file: Path, identity: str, whole: bool) -> None:
        gate.wait(PATIENCE)
        answered.append(file)
        raise OSError("too late")

    monkeypatch.setattr(entryfile, "read", hung)
    monkeypatch.setattr(sharing, "MOST_READ_SECONDS", 0.05)
    got = driver.run(say("b", FILL))[0]
    assert answered == []
    gate.set()
    ended(driver)

    assert got.usage["cached_tokens"] == 0
    assert got.tokens == first.answers["a"].tokens


def test_a_longer_file_takes_the_place_of_its_beginning(tmp_path: Path) -> None:
    store = PrefixStore(ROOM)
    made = Spill(tmp_path, ROOM, "m", store)
    for n in (400, 700, 500):
        layer = KVCache()
        layer.update_and_fetch(mx.ones((1, 1, n, 8)), mx.ones((1, 1, n, 8)))
        store.insert(list(range(n)), [layer])
        (entry,) = store.recent()
        assert made.keep(entry)
        while made._under_way:
            made.poll(wait=True)
        store.clear()
    made.close(10)

    assert [f.name for f in files(tmp_path)] == [entryfile.name_of(list(range(700)))]
    assert len(made) == 1


def test_what_is_computed_sooner_than_read_is_computed(tiny: Model, tmp_path: Path) -> None:
    first = driver_of(tiny, tmp_path)
    first.run(say("a", FILL))
    ended(first)
    driver = driver_of(tiny, tmp_path)
    settle(driver)
    disk(driver)._rate = 1.0
    driver.engine.pace.rate = 1000.0

    assert driver.run(say("b", FILL))[0].usage["cached_tokens"] == 0
    ended(driver)


def test_every_kind_of_layer_comes_back_as_it_was(tmp_path: Path) -> None:
    n = 300
    full, ring, state = KVCache(), RotatingKVCache(24), ArraysCache(2)
    full.update_and_fetch(mx.random.normal((1, 2, n, 64)), mx.random.normal((1, 2, n, 32)))
    half = [mx.random.normal((1, 2, n, 64)).astype(mx.bfloat16) for _ in range(2)]
    ring.update_and_fetch(*half)
    state.cache = [mx.random.normal((1, 3, 8)), mx.random.normal((1, 2, 4, 4)).astype(mx.float16)]
    store = PrefixStore(ROOM)
    tokens = list(range(n))
    made = Spill(tmp_path, ROOM, "m", store)
    store.insert(tokens, [full, ring, state])
    (entry,) = store.recent()
    assert made.keep(entry)
    made.close(10)

    found = entryfile.read(tmp_path / entryfile.name_of(tokens), "m", whole=True)
    arrays = {name: entryfile.as_array(*a) for name, a in found.body.items()}
    back = entryfile.put_together(found.layers, arrays)

    assert (found.tokens, found.trimmable) == (tokens, False)
    assert [type(layer) for layer in back] == [KVCache, RotatingKVCache, ArraysCache]
    for a, b in zip(entry.cache, back, strict=True):
        assert all(
            x == y if not isinstance(x, mx.array) else x.dtype == y.dtype and mx.array_equal(x, y)
            for x, y in zip(_flat(a.state), _flat(b.state), strict=True)
        )


def _flat(state: Any) -> list[Any]:
    return [x for s in state for x in (_flat(s) if isinstance(s, (list, tuple)) else [s])]


@pytest.mark.parametrize(
    ("options", "claim"),
    [
        ({"stored_bits": 3}, "stored_bits must be 0, 4 or 8, not 3"),
        ({"stored_bits": 16}, "stored_bits must be 0, 4 or 8, not 16"),
        ({"session_seconds": -1}, "session_seconds must be from 0 to 1e+09, not -1"),
        ({"spill_dir": 7}, "spill_dir must be a text"),
        ({"spill_bytes": "1G"}, "spill_bytes must be a whole number"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], claim: str) -> None:
    with pytest.raises(LoadError, match=re.escape(claim)):
        protocol.parse_load({"type": "load", "dir": "d", "options": options})


def test_short_ones_are_not_written(tiny: Model, tmp_path: Path) -> None:
    driver = driver_of(tiny, tmp_path)
    driver.run(say("a", FILL[: spill.LEAST_TOKENS - 20]))
    ended(driver)

    assert files(tmp_path) == []


def test_a_worker_process_that_is_restarted(tmp_path: Path) -> None:
    cached = []
    for _ in range(2):
        worker = Process()
        worker.load(hybrid.TINY, options={"spill_dir": str(tmp_path), "spill_bytes": ROOM, "session_seconds": 60})
        worker.send({"type": "gen", "id": "a", "tokens": FILL, "max_tokens": 4})
        cached.append(worker.wait("done")["usage"]["cached_tokens"])
        worker.send({"type": "shutdown"})
        assert worker.exit_code() == 0
        worker.close()

    assert cached == [0, len(FILL) - 1]


@pytest.mark.parametrize("kind", ["tiny", "lfm2"])
def test_random_company_changes_no_answer(kind: str, tiny: Model, api: Api, tmp_path: Path) -> None:
    m = tiny
    if kind == "lfm2":
        m = model.load(api, protocol.Load(folder=str(hybrid.make(tmp_path / "m", hybrid.CONVOLUTION)), name="m"))
    draw = random.Random(kind)
    bases = [draw.choices(range(30, 900), k=n) for n in (280, 300, 320)]
    prompts = [draw.choice(bases)[: draw.choice((150, 400))] + draw.choices(range(30, 900), k=9) for _ in range(12)]
    alone = [Driver(m).run(say("x", p, 5))[0].tokens for p in prompts]
    driver = driver_of(
        m, tmp_path / "d", prefix_bytes=m.kv.bytes(900), spill_bytes=3 * m.kv.bytes(400), prefill_chunk=64, max_rows=4
    )
    asked: dict[str, int] = {}
    cancelled = set()
    for i in range(60):
        which = draw.randrange(len(prompts))
        asked[f"r{i}"] = which
        driver.add(say(f"r{i}", prompts[which], 5))
        for _ in range(draw.choice((0, 0, 1, 3, 6))):
            driver.step()
        victim = draw.choice(list(asked))
        if draw.random() < 0.2 and not driver.answers[victim].reason:
            driver.engine.cancel(victim)
            cancelled.add(victim)
    driver.run()
    ended(driver)

    for id_, which in asked.items():
        got = driver.answers[id_]
        assert got.tokens == alone[which] or (id_ in cancelled and got.tokens == alone[which][: len(got.tokens)])
        assert got.error is None
    assert driver.engine.prefix.nbytes <= m.kv.bytes(900)
    assert driver.engine.counters.cached_tokens > 1000  # it was about that
