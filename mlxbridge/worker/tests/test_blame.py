"""Steps that fail: the row at fault fails, others get what they asked for, a machine at fault ends the worker."""

from __future__ import annotations

import pytest
from harness import Driver, ask

from mlxworker.errors import EXIT_INTERNAL, EXIT_OUT_OF_MEMORY, FatalError
from mlxworker.lane import Lane, Token
from mlxworker.model import Model


def count(n: int) -> str:
    return ", ".join(str(i) for i in range(1, n + 1))


def poisoned(monkeypatch: pytest.MonkeyPatch, bad: str, error: Exception) -> list[int]:
    """Have every step fail that a row of this name is in; return the number of rows of each such step."""
    real, failed = Lane.next, list[int]()

    def step(lane: Lane, chunk: int) -> list[Token]:
        if any(bad in row.id for row in lane.rows()):
            failed.append(len(lane))
            raise error
        return real(lane, chunk)

    monkeypatch.setattr(Lane, "next", step)
    return failed


@pytest.mark.parametrize("beside", [0, 1, 6])
def test_the_row_whose_steps_fail_fails_alone(tiny: Model, monkeypatch: pytest.MonkeyPatch, beside: int) -> None:
    failed = poisoned(monkeypatch, "bad", RuntimeError("a kernel failed"))
    driver = Driver(tiny)
    good = [ask(f"r{i}", f"Count from 1 to {20 + i}.") for i in range(beside)]
    driver.run(*good[: beside // 2], ask("bad", "Count from 1 to 9."), *good[beside // 2 :])

    error = driver.answers["bad"].error
    assert error is not None
    assert (error.code, "a kernel failed" in error.message) == ("internal", True)
    assert [driver.answers[f"r{i}"].text for i in range(beside)] == [count(20 + i) for i in range(beside)]
    assert len(failed) <= 4


def test_a_row_that_fails_in_a_lane_of_its_own_ends_while_others_run(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(tiny, lanes=2)
    driver.add(*(ask(f"r{i}", "Count from 1 to 60.") for i in range(4)))
    driver.until(lambda: driver.engine.running == 4 and driver.engine.counters.generated_tokens > 20)
    failed = poisoned(monkeypatch, "bad", RuntimeError("a kernel failed"))
    driver.run(ask("bad", "Repeat: " + "owl fana bridge " * 700))

    assert driver.answers["bad"].error is not None
    assert all(driver.answers[f"r{i}"].text == count(60) for i in range(4))
    assert len(failed) <= 4


@pytest.mark.parametrize(
    ("error", "code"),
    [(RuntimeError("a kernel failed"), EXIT_INTERNAL), (MemoryError("no memory"), EXIT_OUT_OF_MEMORY)],
)
def test_where_no_step_succeeds_the_worker_ends(
    tiny: Model, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    poisoned(monkeypatch, "", error)
    driver = Driver(tiny)
    driver.add(ask("a", "Count from 1 to 9."), ask("b", "Count from 1 to 9."))

    with pytest.raises(FatalError, match=str(error)) as e:
        driver.until(lambda: False, most=50)
    assert e.value.exit_code == code


def test_what_is_out_of_memory_once_starts_again_as_memory_allows(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(tiny)
    driver.add(*(ask(f"r{i}", f"Count from 1 to {30 + i}.") for i in range(4)))
    driver.until(lambda: driver.engine.counters.generated_tokens > 20)
    real, state = Lane.next, {"left": 1}

    def step(lane: Lane, chunk: int) -> list[Token]:
        state["left"] -= 1
        if state["left"] == 0:
            raise MemoryError("no memory")
        return real(lane, chunk)

    monkeypatch.setattr(Lane, "next", step)
    driver.step()
    assert driver.engine.running == 0, "they wait for admission"
    assert len(driver.engine.waiting) == 4
    driver.run()

    assert [driver.answers[f"r{i}"].text for i in range(4)] == [count(30 + i) for i in range(4)]
