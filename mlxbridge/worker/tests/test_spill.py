"""Prefixes on disk: found again by the next worker of the same model, ignored and removed when they are not right."""

from __future__ import annotations

import errno
import logging
import random
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hybrid
import mlx.core as mx
import pytest
from harness import PATIENCE, Driver, Process, ask_frame
from mlx_lm.models.cache import ArraysCache, KVCache, RotatingKVCache

from mlxworker import entryfile, model, protocol, sharing, spill
from mlxworker.adapter import Api
from mlxworker.errors import LoadError
from mlxworker.model import Model
from mlxworker.prefix import PrefixStore
from mlxworker.spill import Spill

ROOM = 1 << 24
FILL = [30 + (7 * j) % 900 for j in range(1000)]


def driver_of(m: Model, folder: Path, **options: Any) -> Driver:
    how = {"prefix_bytes": ROOM, "spill_dir": str(folder), "spill_bytes": ROOM, **options}
    return Driver(m, **how)


def disk(driver: Driver) -> Spill:
    assert driver.engine._spill is not None
    return driver.engine._spill


def settle(driver: Driver) -> None:
    until = time.monotonic() + PATIENCE
    while disk(driver)._under_way or disk(driver)._restoring:
        assert time.monotonic() < until
        disk(driver).poll(wait=True)


def ended(driver: Driver) -> Driver:
    driver.engine.close(PATIENCE)
    return driver


def say(id_: str, tokens: list[int], n: int = 8) -> protocol.Generate:
    return ask_frame(id=id_, tokens=tokens, max_tokens=n)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.prefix"))


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


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)


DAMAGE = {
    "cut off": lambda f: f.write_bytes(f.read_bytes()[:-1]),
    "empty": lambda f: f.write_bytes(b""),
    "header only": lambda f: f.write_bytes(f.read_bytes()[:40]),
    "no safetensors": lambda f: f.write_bytes(b"\xff" * 5000),
    "longer": lambda f: f.write_bytes(f.read_bytes() + b"\0"),
    "older format": lambda f: f.write_bytes(f.read_bytes().replace(entryfile.FORMAT.encode(), b"mlxctl-prefix-0")),
    "renamed": lambda f: f.rename(f.with_name("0" * 32 + ".prefix")),
    "changed": _flip,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_files_that_are_not_right_are_removed(
    tiny: Model, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = driver_of(tiny, tmp_path)
    first.run(say("a", FILL))
    ended(first)
    (file,) = files(tmp_path)
    DAMAGE[kind](file)
    (tmp_path / "left.prefix-new").write_bytes(b"half")
    with caplog.at_level(logging.WARNING):
        driver = driver_of(tiny, tmp_path)
        settle(driver)
        got = driver.run(say("b", FILL))[0]
    assert files(tmp_path) == []
    assert not (tmp_path / "left.prefix-new").exists()
    ended(driver)

    assert got.usage["cached_tokens"] == 0
    assert got.tokens == first.answers["a"].tokens
    assert len(caplog.records) == 1


def test_another_model_or_version_finds_nothing(tiny: Model, small: Model, tmp_path: Path) -> None:
    first = driver_of(tiny, tmp_path)
    first.run(say("a", FILL))
    ended(first)
    for changed in ({"stored_bits": 8}, {}):
        driver = driver_of(small if not changed else tiny, tmp_path, **changed)
        settle(driver)
        assert len(disk(driver)) == len(files(tmp_path)) == 0
        ended(driver)


def test_the_disk_holds_no_more_than_allowed(tiny: Model, tmp_path: Path) -> None:
    prompts = [[*range(40 + 100 * i, 140 + 100 * i)] * 3 for i in range(6)]
    most = 3 * 320 * 2048
    driver = driver_of(tiny, tmp_path, spill_bytes=most, prefix_bytes=1300 * 2048)
    for i, p in enumerate(prompts):
        driver.run(say(f"a{i}", p))
        settle(driver)
    ended(driver)
    kept = sum(f.stat().st_size for f in files(tmp_path))
    assert 0 < kept <= most + 8192

    fewer = driver_of(tiny, tmp_path, spill_bytes=most // 3)
    settle(fewer)
    assert len(files(tmp_path)) == len(disk(fewer)) == 1
    ended(fewer)


def test_a_full_disk_stops_the_writing_and_nothing_else(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(file: Path, sheet: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(entryfile, "write", full)
    driver = driver_of(tiny, tmp_path, prefix_bytes=1300 * 2048)
    with caplog.at_level(logging.WARNING):
        for i in range(6):
            prompt = [*range(40 + 100 * i, 140 + 100 * i)] * 3
            assert driver.run(say(f"a{i}", prompt))[0].tokens == Driver(tiny).run(say("x", prompt))[0].tokens
            settle(driver)
    ended(driver)

    assert len(caplog.records) == 1
    assert "No space left" in caplog.text
    assert (len(disk(driver)), disk(driver).nbytes, driver.engine.prefix.outside) == (0, 0, 0)


def test_a_write_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    sheet = entryfile.Sheet("m", [1, 2], True, [], [], [entryfile.token_bytes([1, 2])])
    with pytest.raises(OSError, match="no"):
        entryfile.write(tmp_path / "a.prefix", sheet)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["a file", "locked"])
def test_a_folder_that_cannot_be_used(tiny: Model, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    other = driver_of(tiny, tmp_path / "d") if how == "locked" else None
    if other is None:
        (tmp_path / "d").write_text("")
    with caplog.at_level(logging.WARNING):
        driver = driver_of(tiny, tmp_path / "d")
        assert driver.run(say("a", FILL))[0].reason == "length"
    ended(driver)
    if other is not None:
        ended(other)

    assert len(caplog.records) == 1


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
