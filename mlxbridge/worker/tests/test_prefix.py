"""The prefix store: what is found, what is dropped."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import KVCache

from mlxworker import digests
from mlxworker.prefix import LEAST_TOKENS, MOST_DIGESTS, SESSION_SECONDS, PrefixStore

EACH = 2 * 4 * 4  # bytes of one token below


class FixedCache(KVCache):  # type: ignore[misc]
    """Cannot be cut, like the state of a recurrent layer."""

    def is_trimmable(self) -> bool:
        return False


def cache_of(tokens: list[int], kind: Any = KVCache) -> list[Any]:
    """Return keys and values in which the tokens can be read again."""
    layer = kind()
    state = mx.array(tokens, mx.float32).reshape(1, 1, -1, 1) * mx.ones((1, 1, 1, 4))
    layer.keys, layer.values, layer.offset = state, state + 0, len(tokens)
    return [layer]


def tokens_in(cache: list[Any]) -> list[int]:
    (layer,) = cache
    return [int(t) for t in layer.keys[0, 0, : layer.offset, 0].tolist()]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def series(start: int, n: int) -> list[int]:
    return list(range(start, start + n))


@pytest.mark.parametrize("seed", range(40))
def test_finds_the_longest_beginning_like_a_plain_search(seed: int) -> None:
    draw = random.Random(seed)
    store = PrefixStore(1 << 30)
    kept: list[list[int]] = []
    for _ in range(60):
        base = draw.choice(kept)[: draw.randint(0, 40)] if kept and draw.random() < 0.7 else []
        tokens = base + draw.choices(range(3), k=draw.randint(8, 30))
        if draw.random() < 0.6:
            assert store.insert(tokens, cache_of(tokens))
            kept.append(tokens)
            continue
        cache, n = store.fetch(tokens)
        common = max((_common(tokens, k) for k in kept), default=0)
        wanted = min(common, len(tokens) - 1)
        assert n == (wanted if wanted >= LEAST_TOKENS else 0)
        assert (cache is None) == (n == 0)
        assert cache is None or tokens_in(cache) == tokens[:n]
    assert store.nbytes == sum(e.nbytes for e in store._entries) > 0


def _common(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def test_a_longer_entry_takes_the_place_of_its_beginning() -> None:
    store = PrefixStore(1 << 20)
    store.insert(series(0, 20), cache_of(series(0, 20)))
    store.insert(series(0, 50), cache_of(series(0, 50)))
    store.insert(series(0, 30), cache_of(series(0, 30)))

    assert len(store) == 1
    assert store.nbytes == 50 * EACH


def test_the_least_recently_used_goes_first() -> None:
    store = PrefixStore(30 * EACH)
    for start in (0, 100, 200):
        store.insert(series(start, 10), cache_of(series(start, 10)))
    store.fetch(series(0, 12))
    store.insert(series(300, 10), cache_of(series(300, 10)))

    assert [store.fetch(series(s, 12))[1] for s in (0, 100, 200, 300)] == [10, 0, 10, 10]
    assert store.nbytes == 30 * EACH


def test_what_a_session_used_lately_goes_last() -> None:
    clock = Clock()
    store = PrefixStore(20 * EACH, clock)
    store.insert(series(0, 10), cache_of(series(0, 10)), session="s")
    store.insert(series(100, 10), cache_of(series(100, 10)))
    store.insert(series(200, 10), cache_of(series(200, 10)))
    assert store.fetch(series(0, 11))[1] == 10
    assert store.fetch(series(100, 11))[1] == 0

    clock.now = SESSION_SECONDS + 1
    store.fetch(series(200, 11))
    store.insert(series(300, 10), cache_of(series(300, 10)))
    assert store.fetch(series(0, 11))[1] == 0


def test_the_budget_holds_against_sessions_too() -> None:
    store = PrefixStore(20 * EACH, Clock())
    for start in (0, 100, 200):
        assert store.insert(series(start, 10), cache_of(series(start, 10)), session="s")

    assert store.nbytes == 20 * EACH
    assert not store.insert(series(500, 21), cache_of(series(500, 21)))


def test_a_pin_slides_and_lasts_as_long_as_asked() -> None:
    clock = Clock()
    store = PrefixStore(20 * EACH, clock, session_seconds=10)
    store.insert(series(0, 10), cache_of(series(0, 10)), session="s")
    for clock.now in (9.0, 18.0):
        store.fetch(series(0, 11), "s")
    clock.now = 27.0
    for start in (100, 200):
        store.insert(series(start, 10), cache_of(series(start, 10)))
    assert store.match(series(0, 11)) == 10

    clock.now = 28.0
    store.insert(series(300, 10), cache_of(series(300, 10)))
    assert store.match(series(0, 11)) == 0


def test_one_session_does_not_push_out_everybody_else() -> None:
    store = PrefixStore(40 * EACH, Clock())
    store.insert(series(0, 10), cache_of(series(0, 10)), session="other")
    for start in range(1000, 2000, 100):
        store.insert(series(start, 10), cache_of(series(start, 10)), session="greedy")

    assert store.match(series(0, 11)) == 10
    assert [store.match(series(s, 11)) for s in (1700, 1800, 1900)] == [10, 10, 10]


@pytest.mark.parametrize("seed", range(30))
def test_under_a_budget_it_finds_like_a_plain_list(seed: int) -> None:
    draw = random.Random(seed)
    budget = draw.randint(40, 300)
    store = PrefixStore(budget * EACH)
    plain: list[tuple[list[int], bool]] = []  # least recently used first: tokens, whether they can be cut
    for _ in range(200):
        base = draw.choice(plain)[0][: draw.randint(0, 60)] if plain and draw.random() < 0.7 else []
        tokens = base + draw.choices(range(3), k=draw.randint(8, 30))
        if draw.random() < 0.6:
            cuttable = draw.random() < 0.7
            kept = store.insert(tokens, cache_of(tokens, KVCache if cuttable else FixedCache))
            assert kept == _plain_insert(plain, tokens, cuttable, budget)
            used = max(store._entries, key=lambda e: e.used).node.tokens() if kept else None
        else:
            wanted = _plain_fetch(plain, tokens)
            cache, n = store.fetch(tokens)
            assert n == wanted
            assert cache is None or tokens_in(cache) == tokens[:n]
            # Which of those that are as good was used is the store's choice.
            used = max(store._entries, key=lambda e: e.used).node.tokens() if n else None
        plain.sort(key=lambda e: e[0] == used)
        assert sorted(e.node.tokens() for e in store._entries) == sorted(t for t, _ in plain)
        assert store.nbytes == sum(len(t) for t, _ in plain) * EACH <= budget * EACH


def _plain_fetch(plain: list[tuple[list[int], bool]], tokens: list[int]) -> int:
    limit = len(tokens) - 1
    best = 0
    for kept, cuttable in plain:
        same = min(_common(tokens, kept), limit)
        best = max(best, same if cuttable or same == len(kept) else 0)
    return best if best >= LEAST_TOKENS else 0


def _plain_insert(plain: list[tuple[list[int], bool]], tokens: list[int], cuttable: bool, budget: int) -> bool:
    if len(tokens) > budget:
        return False
    same = [e for e in plain if e[0][: len(tokens)] == tokens and (e[1] or len(e[0]) == len(tokens))]
    if same:
        return True
    if cuttable:
        plain[:] = [e for e in plain if tokens[: len(e[0])] != e[0]]
    plain.append((tokens, cuttable))
    while sum(len(t) for t, _ in plain) > budget:
        plain.pop(0)
    return True


def wide(tokens: list[int], dtype: Any) -> list[Any]:
    layer = KVCache()
    layer.keys = mx.random.normal((1, 2, len(tokens), 64)).astype(dtype)
    layer.values, layer.offset = mx.random.normal((1, 2, len(tokens), 32)).astype(dtype), len(tokens)
    return [layer]


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_entries_are_smaller_and_close(bits: int, dtype: Any) -> None:
    store = PrefixStore(1 << 20, bits=bits)
    whole = wide(series(0, 100), dtype)
    nbytes = whole[0].nbytes
    store.insert(series(0, 100), [whole[0]])
    found, n = store.fetch(series(0, 61))

    size = mx.array(0, dtype).itemsize
    exact = 100 * 2 * sum(d * bits // 8 + 2 * size * d // g for d, g in ((64, 64), (32, 32)))
    assert store.nbytes == exact < nbytes / (1.5 if bits == 8 else 2.5)
    assert found is not None
    assert (n, found[0].offset, found[0].keys.dtype) == (60, 60, dtype)
    for got, want in ((found[0].keys, whole[0].keys), (found[0].values, whole[0].values)):
        error = mx.abs(got.astype(mx.float32) - want[..., :60, :].astype(mx.float32)).max()
        assert bool(error < (0.06 if bits == 8 else 0.6))


def test_what_has_no_head_dimension_to_quantise_stays_exact() -> None:
    store = PrefixStore(1 << 20, bits=8)
    store.insert(series(0, 20), cache_of(series(0, 20)))
    cache, _ = store.fetch(series(0, 21))

    assert cache is not None
    assert tokens_in(cache) == series(0, 20)


def test_entries_do_not_keep_the_batch_that_they_were_cut_from() -> None:
    batch = mx.zeros((1, 1, 100_000, 64))
    mx.eval(batch)
    layer = KVCache()
    layer.keys, layer.values, layer.offset = batch[:, :, :100], batch[:, :, :100], 100
    store = PrefixStore(1 << 20)
    store.insert(series(0, 100), [layer])
    mx.eval(layer.keys, layer.values)
    before = mx.get_active_memory()
    del batch

    assert before - mx.get_active_memory() >= 100_000 * 64 * 4
    assert store.nbytes == 2 * 100 * 64 * 4


def test_digests_are_a_chain_over_blocks_most_recently_used_first() -> None:
    store = PrefixStore(1 << 30)
    first, second = series(0, 600), [*series(0, 256), *series(5000, 300)]
    store.insert(first, cache_of(first))
    store.insert(second, cache_of(second))
    told = store.known()

    def block(before: bytes, tokens: list[int]) -> bytes:
        data = before + b"".join(t.to_bytes(4, "little") for t in tokens)
        return hashlib.sha256(data).digest()[:8]

    one = block(b"", series(0, 256))
    assert told == [d.hex() for d in (one, block(one, series(5000, 256)), block(one, series(256, 256)))]
    assert store.known() is told
    store.fetch(first)
    assert store.known() == [told[0], told[2], told[1]]
    store.clear()
    assert store.known() == []


def test_digests_stay_few() -> None:
    store = PrefixStore(1 << 30)
    for start in range(0, 600_000, 100_000):
        tokens = series(start, 20_000)
        store.insert(tokens, cache_of(tokens))
    fixed = series(900_000, 700)
    store.insert(fixed, cache_of(fixed, FixedCache))
    told = store.known()

    assert len(told) == len(set(told)) == MOST_DIGESTS
    # Of what can only be used whole, its end is all that helps.
    assert told[0] == digests.chain(fixed, 2)[1]
    assert told[1:65] == digests.chain(series(500_000, 20_000), 64)


def test_what_cannot_be_cut_is_found_only_whole() -> None:
    store = PrefixStore(1 << 20)
    store.insert(series(0, 20), cache_of(series(0, 20), FixedCache))
    store.insert(series(0, 40), cache_of(series(0, 40), FixedCache))

    assert len(store) == 2
    assert store.fetch(series(0, 60))[1] == 40
    assert store.fetch(series(0, 40))[1] == 20
    assert store.fetch(series(0, 30))[1] == 20
    assert store.fetch(series(0, 20)) == (None, 0)


def test_what_was_handed_out_outlives_its_entry() -> None:
    store = PrefixStore(1 << 20)
    store.insert(series(0, 20), cache_of(series(0, 20)))
    cache, n = store.fetch(series(0, 15))
    assert cache is not None
    cache[0].update_and_fetch(mx.full((1, 1, 1, 4), 99.0), mx.full((1, 1, 1, 4), 99.0))
    again, _ = store.fetch(series(0, 21))
    store.trim_to(0)

    assert n == 14
    assert tokens_in(cache) == [*series(0, 14), 99]
    assert again is not None
    assert tokens_in(again) == series(0, 20)
    assert (len(store), store.nbytes) == (0, 0)
    assert store.fetch(series(0, 21)) == (None, 0)
