"""Models whose state cannot be cut: it is kept at the ends of turns, and the next turn starts from there."""

from __future__ import annotations

from typing import Any

import hybrid
import pytest
from harness import Driver, ask, ask_frame

from mlxworker import borders, model, protocol
from mlxworker.adapter import Api
from mlxworker.model import Model

ROOM = 1 << 26
SYSTEM = {"role": "system", "content": "You are brief. " * 20}
FILL = [30 + (7 * j) % 900 for j in range(300)]


@pytest.fixture(scope="module", params=[hybrid.CONVOLUTION, hybrid.WINDOW, hybrid.DELTA], ids=lambda c: c["model_type"])
def mixed(request: pytest.FixtureRequest, api: Api, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = hybrid.make(tmp_path_factory.mktemp("models") / "m", request.param)
    return model.load(api, protocol.Load(folder=str(folder), name="m"))


def chat(id_: str, *messages: dict[str, Any]) -> protocol.Generate:
    return ask(id_, "", messages=list(messages), max_tokens=12)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def cold(mixed: Model, *messages: dict[str, Any]) -> list[int]:
    return Driver(mixed).run(chat("x", *messages))[0].tokens


def test_another_question_after_the_same_beginning(mixed: Model) -> None:
    driver = Driver(mixed, prefix_bytes=ROOM, prefill_chunk=32)
    driver.run(chat("a", SYSTEM, user("Count from 1 to 60.")))

    second = driver.run(chat("b", SYSTEM, user("What is the capital of Norway?")))[0]

    shared = len(mixed.tokenizer.apply_chat_template([SYSTEM], add_generation_prompt=False))
    assert second.usage["cached_tokens"] == shared > 60
    assert second.tokens == cold(mixed, SYSTEM, user("What is the capital of Norway?"))


def test_the_next_turn_starts_where_the_last_question_ended(mixed: Model) -> None:
    driver = Driver(mixed, prefix_bytes=ROOM, prefill_chunk=32)
    turns = [SYSTEM, user("Count from 1 to 60.")]
    driver.run(chat("a", *turns))
    ended = len(mixed.tokenizer.apply_chat_template(turns, add_generation_prompt=False))
    # Not what was answered: as when a client leaves the reasoning out.
    turns += [{"role": "assistant", "content": "No."}, user("Count from 1 to 20.")]

    second = driver.run(chat("b", *turns))[0]

    assert second.usage["cached_tokens"] >= ended
    assert second.tokens == cold(mixed, *turns)


def test_the_same_prompt_again(mixed: Model) -> None:
    driver = Driver(mixed, prefix_bytes=ROOM)
    first, second = (driver.run(ask_frame(id=i, tokens=FILL, max_tokens=12))[0] for i in "ab")

    assert second.tokens == first.tokens
    assert second.usage["cached_tokens"] == len(FILL) - 1


def test_prompts_of_different_lengths_stop_at_their_own_borders(mixed: Model) -> None:
    driver = Driver(mixed, prefix_bytes=ROOM, prefill_chunk=32)
    texts = ["Count.", "Count from 1 to 60, and then back to 1 again, please.", "Why?"]
    got = driver.run(
        *[chat(f"r{i}", {**SYSTEM, "content": f"{i} " * (9 * i + 9)}, user(t)) for i, t in enumerate(texts)]
    )

    for i, t in enumerate(texts):
        messages = ({**SYSTEM, "content": f"{i} " * (9 * i + 9)}, user(t))
        assert got[i].tokens == cold(mixed, *messages)
        again = driver.run(chat(f"again{i}", *messages))[0]
        assert again.tokens == got[i].tokens
        assert again.usage["cached_tokens"] >= again.usage["prompt_tokens"] - 8


def test_eight_of_one_beginning_compute_it_once(mixed: Model) -> None:
    driver = Driver(mixed, prefix_bytes=ROOM)
    prompts = [FILL + [40 + i] * (3 + i) for i in range(8)]

    got = driver.run(*[ask_frame(id=f"r{i}", tokens=p, max_tokens=6) for i, p in enumerate(prompts)])

    assert driver.engine.counters.prompt_tokens < len(FILL) + 8 * 20
    for i, p in enumerate(prompts):
        assert got[i].tokens == Driver(mixed).run(ask_frame(id="x", tokens=p, max_tokens=6))[0].tokens


def test_long_prompts_are_kept_in_between(mixed: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(borders, "EVERY_TOKENS", 128)
    driver = Driver(mixed, prefix_bytes=ROOM)
    driver.run(ask_frame(id="a", tokens=FILL, max_tokens=2))

    other = driver.run(ask_frame(id="b", tokens=[*FILL[:290], 5, 6, 7], max_tokens=6))[0]

    assert other.usage["cached_tokens"] == 256
    assert other.tokens == Driver(mixed).run(ask_frame(id="x", tokens=[*FILL[:290], 5, 6, 7], max_tokens=6))[0].tokens


def test_a_model_that_can_cut_has_no_borders(tiny: Model) -> None:
    source = protocol.Source(messages=[SYSTEM, user("Count.")])

    assert borders.of_prompt(tiny, source, FILL) == []
