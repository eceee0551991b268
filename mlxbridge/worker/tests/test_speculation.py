"""Tokens that are guessed ahead: the same text, tokens and end as without, whatever is guessed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL, TINY
from guessing import eager
from harness import Answer, Driver, answer, ask, ask_frame

from mlxworker import model as models
from mlxworker import protocol
from mlxworker.adapter import Api
from mlxworker.errors import LoadError
from mlxworker.model import Model
from mlxworker.report import joined

ROUNDS = "Repeat: " + "owl fana bridge " * 8  # and the models go on so until they are stopped
QUESTIONS = [
    "Count from 1 to 60.",
    "Count from 95 to 130.",
    "Repeat: owl fana bridge owl fana",
    "Repeat: red green blue red green blue red green blue",
    "What is the capital of Norway?",
    "Sort these numbers: 9, 3, 7, 1",
    "Spell bridge.",
    "Reverse these words: one two three four",
    "Who are you?",
]


def kept_fits(driver: Driver) -> None:
    """Check that every stored cache covers exactly the tokens that it is stored for."""
    for entry in driver.engine.prefix._entries:
        assert {layer.offset for layer in entry.cache} == {entry.length}


def same(got: Answer, want: Answer) -> None:
    assert got.tokens == want.tokens
    assert (got.text, got.reason, got.stop) == (want.text, want.reason, want.stop)
    assert got.usage["completion_tokens"] == want.usage["completion_tokens"]


def test_a_row_that_moves_is_not_counted_as_a_prompt(tiny: Model) -> None:
    driver = eager(tiny, prefix_bytes=0)
    got = driver.run(ask("q", "Count from 1 to 60."))[0]
    driver.add(ask("a", "Count from 1 to 60."))
    driver.until(lambda: driver.engine._all.guessing)
    driver.run(ask("b", "Count from 1 to 9."))  # it comes back for this one
    counters = driver.engine.counters

    prompts = 2 * got.usage["prompt_tokens"] + driver.answers["b"].usage["prompt_tokens"]
    assert counters.prompt_tokens + counters.cached_tokens == prompts


@pytest.mark.parametrize("which", ["tiny", "small"])
def test_greedy_answers_are_the_same(which: str, request: pytest.FixtureRequest) -> None:
    model: Model = request.getfixturevalue(which)
    driver = eager(model)

    for i, question in enumerate(QUESTIONS):
        same(driver.run(ask(f"q{i}", question, max_tokens=100))[0], answer(model, question, max_tokens=100))

    assert driver.engine.speculation.proposed > 100
    assert 0 < driver.engine.speculation.accepted < driver.engine.speculation.proposed


@pytest.mark.parametrize("shape", [{}, {"top_k": 5}, {"top_k": 4000}, {"top_p": 0.8}, {"min_p": 0.05}])
def test_seeded_draws_are_the_same(tiny: Model, shape: dict[str, Any]) -> None:
    driver = eager(tiny)
    for seed in range(4):
        how: dict[str, Any] = {"temperature": 0.9, "seed": seed, "max_tokens": 80, **shape}
        want = answer(tiny, "Count from 1 to 30.", **how)
        same(driver.run(ask(f"s{seed}", "Count from 1 to 30.", **how))[0], want)

    assert driver.engine.speculation.accepted > 5


def test_what_repeats_takes_fewer_steps_and_is_chosen_by_itself(tiny: Model) -> None:
    driver = Driver(tiny, speculate=True)

    got = driver.run(ask("a", ROUNDS, max_tokens=300))[0]

    same(got, answer(tiny, ROUNDS, max_tokens=300))
    assert len(got.tokens) == 300
    assert got.steps < 200


@pytest.mark.parametrize("limit", range(20, 40, 3))
def test_the_limit_of_tokens_ends_a_run(tiny: Model, limit: int) -> None:
    want = answer(tiny, "Count from 1 to 60.", max_tokens=limit)
    got = eager(tiny).run(ask("a", "Count from 1 to 60.", max_tokens=limit))[0]

    same(got, want)
    assert got.reason == "length"


@pytest.mark.parametrize("stop", [", 12", "5, 1", "24", "3", " 20, "])
def test_a_stop_sequence_ends_a_run_and_what_is_kept_fits(tiny: Model, stop: str) -> None:
    driver = eager(tiny, prefix_bytes=1 << 26)
    want = answer(tiny, "Count from 1 to 60.", stop=[stop])
    got = driver.run(ask("a", "Count from 1 to 60.", stop=[stop]))[0]
    same(got, want)

    row = tiny.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Count from 1 to 60."}], add_generation_prompt=True
    )
    follow: dict[str, Any] = {"tokens": [*row, *got.tokens], "max_tokens": 60}
    again = driver.run(ask_frame(id="b", **follow))[0]

    same(again, Driver(tiny).run(ask_frame(id="b", **follow))[0])
    assert again.usage["cached_tokens"] >= len(row) + len(got.tokens) - 2


@pytest.mark.parametrize("end", [150, 171, 200])
def test_a_stop_sequence_in_the_middle_of_guesses_that_were_right(tiny: Model, end: int) -> None:
    """The model says the same again and again here, and a text of several rounds ends it."""
    stop = [answer(tiny, ROUNDS, max_tokens=120).text[end - 100 : end]]
    driver = eager(tiny, prefix_bytes=1 << 26)

    got = driver.run(ask("a", ROUNDS, max_tokens=300, stop=stop))[0]

    same(got, answer(tiny, ROUNDS, max_tokens=300, stop=stop))
    assert got.stop == stop[0]
    assert driver.engine.speculation.accepted > 5
    assert driver.engine.prefix.nbytes
    kept_fits(driver)


def test_logprobs_come_with_every_token_of_a_run(tiny: Model) -> None:
    how: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "max_tokens": 120}
    want = answer(tiny, "Count from 1 to 60.", **how)
    driver = eager(tiny)

    got = driver.run(ask("a", "Count from 1 to 60.", **how))[0]

    same(got, want)
    assert driver.engine.speculation.accepted > 0
    assert [e["t"] for e in got.logprobs] == got.tokens
    assert [e["l"] for e in got.logprobs] == pytest.approx([e["l"] for e in want.logprobs], abs=1e-3)


def test_rows_with_changed_logits_are_left_alone(tiny: Model) -> None:
    driver = eager(tiny)
    how: dict[str, Any] = {"presence_penalty": 0.5, "max_tokens": 40}

    same(driver.run(ask("a", "Count from 1 to 30.", **how))[0], answer(tiny, "Count from 1 to 30.", **how))
    assert driver.engine.speculation.proposed == 0


def test_a_row_comes_back_when_another_joins_and_leaves_again(tiny: Model) -> None:
    driver = eager(tiny)
    driver.add(ask("a", "Count from 1 to 90."))
    for i in range(4):
        driver.until(lambda: len(driver.engine._all._solo) == 1)
        driver.add(ask(f"b{i}", f"Count from 1 to {10 + i}."))
        driver.step()
        assert len(driver.engine._all._solo) == 0
        driver.until(lambda i=i: driver.answers[f"b{i}"].reason != "")  # type: ignore[misc]  # mypy: lambda defaults
    driver.run()

    for i in range(4):
        assert driver.answers[f"b{i}"].text == answer(tiny, f"Count from 1 to {10 + i}.").text
    same(driver.answers["a"], answer(tiny, "Count from 1 to 90."))


def test_a_row_that_guesses_can_be_cancelled_and_continued(tiny: Model) -> None:
    driver = eager(tiny, prefix_bytes=1 << 26)
    want = answer(tiny, "Count from 1 to 90.")
    driver.add(ask("a", "Count from 1 to 90."))
    driver.until(lambda: driver.engine.speculation.accepted > 3)
    driver.engine.cancel("a")
    driver.step()
    got = driver.answers["a"]
    assert got.reason == "cancelled"
    assert got.tokens == want.tokens[: len(got.tokens)]

    rest = driver.run(ask("b", "Count from 1 to 90.", **{"continue": got.tokens}))[0]

    assert got.tokens + rest.tokens == want.tokens
    assert driver.engine.running == 0


def test_a_pass_that_fails_ends_the_guessing_and_nothing_else(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = eager(tiny)
    driver.add(ask("a", "Count from 1 to 60."))
    driver.until(lambda: len(driver.engine._all._solo) == 1)

    def fails(*_: Any) -> Any:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(driver.engine._all._solo, "_draw", fails)
    driver.run()

    same(driver.answers["a"], answer(tiny, "Count from 1 to 60."))
    assert driver.engine.counters.failed == 0


def test_a_row_that_cannot_take_a_token_of_several_fails_alone(tiny: Model) -> None:
    driver = eager(tiny)
    driver.add(ask("a", ROUNDS, max_tokens=100))
    driver.until(lambda: driver.engine.speculation.accepted > 3)
    row = driver.engine._answers.live["a"]

    def fails(_: int) -> tuple[str, bool]:
        raise ValueError("no text")

    row.feed = fails  # type: ignore[assignment,method-assign]  # as a tokenizer's own code may
    driver.run(ask("b", "Count from 1 to 9."))

    error = driver.answers["a"].error
    assert error is not None
    assert error.message == "row failed: no text"
    assert driver.answers["b"].text == "1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert driver.engine.running == 0
    assert not driver.engine._answers.live


def test_a_step_gives_one_entry_for_a_row() -> None:
    texts: list[list[Any]] = [
        ["a", "x", [1]],
        ["b", "", [2]],
        ["b", "y", [3]],
        ["b", "z", []],
        ["c", "", [4], [{"t": 4}]],
    ]
    more = ["c", "w", [5], [{"t": 5}]]

    assert joined([*texts, more]) == [
        ["a", "x", [1]],
        ["b", "yz", [2, 3]],
        ["c", "w", [4, 5], [{"t": 4}, {"t": 5}]],
    ]


@pytest.fixture(scope="module")
def drafted(api: Api) -> Model:
    return models.load(api, protocol.Load(folder=str(SMALL), name="small", draft=str(TINY)))


def test_a_draft_model_guesses_and_the_answers_are_the_same(drafted: Model, small: Model) -> None:
    driver = eager(drafted, "draft")
    for i, question in enumerate(QUESTIONS[:5]):
        how: dict[str, Any] = {"max_tokens": 20, "seed": i, "temperature": 0.0 if i % 2 else 1.0}
        same(driver.run(ask(f"q{i}", question, **how))[0], answer(small, question, **how))

    assert driver.engine.speculation.accepted > driver.engine.speculation.proposed // 4


def test_a_draft_that_was_ahead_is_in_step_again(drafted: Model, small: Model) -> None:
    driver = eager(drafted, "draft")
    driver.add(ask("a", "Count from 1 to 30."))
    driver.until(lambda: driver.engine.speculation.accepted > 3)
    driver.run(ask("b", "Count from 1 to 3."))
    driver.run()

    same(driver.answers["a"], answer(small, "Count from 1 to 30."))


def test_a_token_that_the_draft_does_not_know_ends_its_guessing(
    drafted: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert drafted.draft is not None
    monkeypatch.setattr(drafted, "draft", dataclasses.replace(drafted.draft, vocabulary=100))
    driver = eager(drafted, "draft")

    got = driver.run(ask("a", "Count from 1 to 12.", max_tokens=60))[0]

    assert got.text == "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12"
    assert driver.engine.speculation.proposed == 0


def test_weights_and_state_of_a_draft_are_planned(api: Api, drafted: Model, small: Model, tiny: Model) -> None:
    assert drafted.budget(0).weights == small.weight_bytes + tiny.weight_bytes
    assert drafted.budget(0).live([[300]]) == small.budget(0).live([[300]]) + tiny.kv.bytes(300)

    order = protocol.Load(folder=str(SMALL), name="small", draft=str(TINY), memory_bytes=small.weight_bytes + 1)
    with pytest.raises(LoadError, match="the weights of small need"):
        models.load(api, order)


def test_a_draft_with_other_tokens_is_refused(api: Api, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(TINY, other)
    words = json.loads((other / "tokenizer.json").read_text())
    vocab = words["model"]["vocab"]
    a, b = sorted(vocab, key=vocab.get)[100:102]
    vocab[a], vocab[b] = vocab[b], vocab[a]
    (other / "tokenizer.json").write_text(json.dumps(words))

    with pytest.raises(LoadError, match="draft other: another vocabulary than the model, 2 tokens differ") as e:
        models.load(api, protocol.Load(folder=str(SMALL), name="small", draft=str(other)))
    assert e.value.code == "unsupported"


@pytest.mark.parametrize("which", [SMALL, TINY])
def test_models_that_cannot_take_a_guess_back_are_refused(
    api: Api, monkeypatch: pytest.MonkeyPatch, which: Path
) -> None:
    probe = models._probe

    def windowed(net: Any) -> Any:
        vocabulary, plan = probe(net)
        here = len(net.layers) == (6 if which == SMALL else 2)
        return vocabulary, dataclasses.replace(plan, windows=((100, 512),)) if here else plan

    monkeypatch.setattr(models, "_probe", windowed)
    message = "a draft is of no use to small" if which == SMALL else "draft tiny: it cannot guess"
    with pytest.raises(LoadError, match=f"{message}: its state is not only keys and values") as e:
        models.load(api, protocol.Load(folder=str(SMALL), name="small", draft=str(TINY)))
    assert e.value.code == "unsupported"


def test_a_draft_that_is_not_there_is_refused(api: Api, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"draft none: .*is not a folder"):
        models.load(api, protocol.Load(folder=str(SMALL), name="small", draft=str(tmp_path / "none")))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kv_bits": 5}, "kv_bits must be 0, 4 or 8, not 5"),
        ({"options": {"speculate": "yes"}}, "speculate must be auto or off, not yes"),
        ({"draft": 7}, "draft must be a text"),
    ],
)
def test_load_fields_are_checked(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(LoadError, match=message):
        protocol.parse_load({"type": "load", "dir": "x", **fields})


def test_load_fields_are_read() -> None:
    got = protocol.parse_load({"dir": "x", "draft": "y", "kv_bits": 8, "options": {"speculate": "off"}})

    assert (got.draft, got.kv_bits, got.speculate) == ("y", 8, False)
    assert protocol.parse_load({"dir": "x"}).speculate
