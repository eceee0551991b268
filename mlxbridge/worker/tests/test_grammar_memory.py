"""What compiled grammars take: counted, bounded, and given back."""

from __future__ import annotations

import dataclasses
import subprocess
from typing import Any

import pytest
from conftest import TINY
from forms import QUESTION, regex
from harness import Driver, Process, answer, ask, count

from mlxworker import compiled, grammar, heap
from mlxworker.compiled import Holding, Shelf
from mlxworker.constraint import Grammar
from mlxworker.errors import RequestError
from mlxworker.model import Model

MIB = 1 << 20


def fill(shelf: Shelf, name: str, nbytes: int) -> Holding:
    return shelf.keep(Grammar("regex", name), None, nbytes)


def kept(shelf: Shelf, *names: str) -> list[bool]:
    return [shelf.find(Grammar("regex", name)) is not None for name in names]


def test_those_used_longest_ago_go_by_bytes() -> None:
    shelf = Shelf(10 * MIB)
    for name in ("a", "b", "c"):
        fill(shelf, name, 2 * MIB)
    assert kept(shelf, "a")

    fill(shelf, "large", 5 * MIB)

    assert not any(kept(shelf, "b"))
    assert all(kept(shelf, "a", "large"))
    assert shelf.nbytes <= 10 * MIB


def test_those_in_use_stay_and_count() -> None:
    shelf = Shelf(10 * MIB)
    held = fill(shelf, "held", 6 * MIB)
    fill(shelf, "idle", 2 * MIB)
    fill(shelf, "next", 3 * MIB)

    assert kept(shelf, "held", "idle", "next") == [True, False, True]
    held.spoilt()
    assert not any(kept(shelf, "held"))
    assert shelf.nbytes > 9 * MIB
    assert shelf.release(100 * MIB) > 3 * MIB
    assert shelf.nbytes > 6 * MIB

    del held

    assert shelf.nbytes == 0


def test_one_that_grows_too_far_is_refused_and_the_others_stay() -> None:
    shelf = Shelf(100 * MIB)
    good, bad = fill(shelf, "good", MIB), fill(shelf, "bad", MIB)
    shelf.grow(bad, 49 * MIB)

    with pytest.raises(RequestError, match=r"grammar is too complex.* more than 50 MiB") as e:
        shelf.grow(bad, 2 * MIB)

    assert (e.value.code, e.value.field) == ("invalid_request", "grammar")
    shelf.grow(good, MIB)
    assert kept(shelf, "good", "bad") == [True, False]


def test_of_several_that_take_too_much_together_the_largest_goes() -> None:
    shelf = Shelf(100 * MIB)
    held = [fill(shelf, f"g{i}", 0) for i in range(3)]
    shelf.grow(held[0], 40 * MIB)
    shelf.grow(held[1], 45 * MIB)

    shelf.grow(held[2], 20 * MIB)
    shelf.grow(held[0], MIB)
    with pytest.raises(RequestError, match="for all of them"):
        shelf.grow(held[1], MIB)


def test_what_many_requests_add_is_no_fault_of_the_next() -> None:
    shelf = Shelf(100 * MIB)
    for _ in range(100):
        shelf.grow(shelf.find(Grammar("regex", "a")) or fill(shelf, "a", 0), MIB)

    assert shelf.nbytes < 60 * MIB


def test_a_large_one_goes_when_nobody_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(heap, "give_back", lambda: given.append(1))
    monkeypatch.setattr(compiled, "_TIDY_SECONDS", 0.0)
    shelf = Shelf(100 * MIB)
    for name, nbytes in (("large", 20 * MIB), ("small", 0)):
        fill(shelf, name, nbytes)
    shelf.tidy(busy=False)
    assert not given
    monkeypatch.setattr(compiled, "IDLE_SECONDS", 0.0)

    shelf.tidy(busy=False)

    assert kept(shelf, "large", "small") == [False, True]
    assert given == [1]


def test_what_is_compiled_and_followed_is_measured(tiny: Model) -> None:
    model = dataclasses.replace(tiny, grammars=grammar.Grammars(tiny.folder, tiny.vocabulary, tiny.eos))
    shelf = model.grammars.shelf
    answer(model, QUESTION, grammar=regex("[a-z]{3}"))
    before = shelf.nbytes
    heap.give_back()  # else what was freed before is taken again
    ask_ = {"grammar": regex(r"(\p{L}{1,50}\p{N}{1,500}\w{1,500}\W{1,500}){50}"), "temperature": 2.0, "seed": 1}

    answer(model, QUESTION, max_tokens=200, **ask_)

    assert shelf.nbytes - before > 2 * MIB
    shelf.tidy(busy=False, everything=True)
    assert shelf.nbytes == 0


def test_a_row_takes_the_room_of_grammars_that_nobody_uses(tiny: Model) -> None:
    need = Driver(tiny).engine.budget.weights + 64 * MIB
    driver = Driver(tiny, memory_bytes=need)
    driver.engine.model.grammars.shelf.keep(Grammar("regex", "idle"), None, 60 * MIB)

    got = driver.run(ask("r", "Count from 1 to 20."))[0]

    assert (got.text, got.error) == (count(1, 20), None)
    assert not tiny.grammars.is_ready(Grammar("regex", "idle"))


def test_a_row_is_not_refused_for_the_grammars_of_those_that_wait(tiny: Model) -> None:
    driver = Driver(tiny, memory_bytes=Driver(tiny).engine.budget.weights + 64 * MIB)
    waits = tiny.grammars.shelf.keep(Grammar("regex", "waits"), None, 63 * MIB)

    got = driver.run(ask("r", "Count from 1 to 20."), ask("s", "Count from 1 to 9."))

    assert waits.form.nbytes > 63 * MIB
    assert [(a.text, a.error) for a in got] == [(count(1, 20), None), (count(1, 9), None)]


def gen(id_: str, pattern: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": QUESTION}]
    sampling = {"temperature": 2.0, "seed": 3, "max_tokens": 400}
    return {"type": "gen", "id": id_, "messages": messages, "grammar": regex(pattern), **sampling}


def resident(process: Process) -> int:
    pid = str(process.pid)
    return int(subprocess.run(["ps", "-o", "rss=", "-p", pid], capture_output=True, check=True).stdout) << 10


def test_hostile_patterns_take_no_more_than_the_budget() -> None:
    worker = Process()
    worker.load(TINY, memory_bytes=256 * MIB)  # 32 MiB for grammars, 16 for one
    try:
        worker.send(gen("first", "[a-z]{3}"))
        worker.collect(["first"])
        before, refused = resident(worker), 0
        for i in range(12):
            worker.send(gen(f"r{i}", f"(.*[ab].{{{30 + i}}}|.*[cd].{{41}}|.*[ef].{{42}}){{20}}"))
            error = worker.collect([f"r{i}"])[f"r{i}"].error
            if error is not None:
                refused += 1
                assert (error.code, error.field) == ("invalid_request", "grammar")
                assert "too complex" in error.message
        assert refused > 6
        # Each of them would take 40 MiB.
        assert resident(worker) - before < 150 * MIB
        worker.send(gen("last", "1, 2, 4"))
        assert worker.collect(["last"])["last"].text == "1, 2, 4"
    finally:
        worker.close()
