"""A model folder on disk becomes a model in memory."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlxworker import bounds, channels, memory, quantised, standins
from mlxworker.adapter import Api
from mlxworker.detok import Vocabulary
from mlxworker.draft import Draft, check_vocabulary, refused
from mlxworker.errors import BAD_MODEL, INTERNAL, TOO_BIG, UNSUPPORTED, LoadError, describe
from mlxworker.grammar import Grammars
from mlxworker.protocol import Load

_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
    "n_ctx",
)
_FALLBACK_CONTEXT = 4096
NOT_FINITE = "the model computes logits that are not finite: its weights are damaged, or too large for their type"


@dataclass
class Model:
    """One model in memory, and what has to be known to serve it."""

    api: Api
    folder: Path
    net: Any
    tokenizer: Any
    words: Vocabulary
    config: dict[str, Any]
    defaults: dict[str, Any]  # of generation_config.json
    context: int  # tokens
    vocabulary: int  # width of the logits
    eos: list[int]
    most_token_bytes: int | None  # of a prompt's text in one token; None: not known
    weight_bytes: int
    wired_bytes: int  # of the weights; 0 wires nothing
    kv: memory.KVPlan
    device: str
    architecture: str
    grammars: Grammars
    channels: channels.Format
    stop: Any = field(repr=False)
    kv_bits: int = 0  # of keys and values of running rows; 0: as the model computes them
    kv_group: int = 0  # how many of these numbers share a scale
    draft: Draft | None = None

    def budget(self, limit: int) -> memory.Budget:
        """Return the memory plan of a worker that may use that many bytes; 0 is no limit."""
        inner = self.config.get("text_config")
        hidden = self.config.get("hidden_size") or (inner or {}).get("hidden_size") or 4096
        spare = memory.GIB // 2 if self.device == "gpu" else 8 << 20
        weights = self.weight_bytes + (self.draft.weight_bytes if self.draft is not None else 0)
        drafted = self.draft.kv if self.draft is not None else None
        return memory.Budget(limit, weights, self.kv, self.vocabulary, int(hidden), spare, not self.kv_bits, drafted)

    def new_cache(self) -> list[Any]:
        """Return an empty cache for one row."""
        cache = _new_cache(self.net)
        return quantised.quantised(cache, self.kv_bits, self.kv_group) if self.kv_bits else cache

    def new_draft_cache(self) -> list[Any]:
        """Return an empty cache of the draft model for one row."""
        return _new_cache(self.draft.net) if self.draft is not None else []


def device() -> str:
    """Return what MLX computes on: "gpu" or "cpu"."""
    return "gpu" if mx.default_device().type == mx.gpu else "cpu"


def load(api: Api, order: Load) -> Model:
    """Load the model of a folder. Raises LoadError that says what is wrong with it."""
    folder = Path(order.folder)
    config = _read_config(folder)
    on_cpu = device() == "cpu"
    need = memory.weight_bytes(folder, as_float32=on_cpu)
    if order.draft is not None:
        need += _draft_bytes(order.draft, on_cpu)
    if order.memory_bytes and need > order.memory_bytes:
        raise LoadError(TOO_BIG, f"the weights of {order.name} need {need} bytes, {order.memory_bytes} are given")
    memory.set_limits(order.memory_bytes)
    net, config = _load_net(folder, order.adapter)
    weights = _settle(net)
    wired = weights if order.wired == "weights" else 0
    memory.wire_weights(wired)
    tokenizer = _load_tokenizer(api, folder, config)
    eos = sorted(t for t in tokenizer.eos_token_ids if isinstance(t, int))
    words = Vocabulary(tokenizer, _decoder(folder))
    vocabulary, plan = _probe(net)
    if order.draft is not None:
        _check_cuttable(plan, f"a draft is of no use to {order.name}")
    group = 0
    if order.kv_bits:
        group, plan = _probe_quantised(net, order.kv_bits)
    draft = _load_draft(api, order.draft, tokenizer) if order.draft is not None else None
    if wired and draft is not None:
        wired += draft.weight_bytes
    return Model(
        api=api,
        folder=folder,
        net=net,
        tokenizer=tokenizer,
        words=words,
        config=config,
        defaults=_read_json(folder / "generation_config.json"),
        context=min(_context(config, tokenizer), order.context or 1 << 62),
        vocabulary=vocabulary,
        eos=eos,
        most_token_bytes=bounds.most_token_bytes(tokenizer, words),
        weight_bytes=weights,
        wired_bytes=wired,
        kv=plan,
        device=device(),
        architecture=str(config.get("model_type", "")),
        grammars=Grammars(folder, vocabulary, eos),
        channels=channels.format_of(tokenizer),
        stop=api.make_stop(eos),
        kv_bits=order.kv_bits,
        kv_group=group,
        draft=draft,
    )


def _check_cuttable(plan: memory.KVPlan, what: str) -> None:
    if plan.windows or plan.fixed:
        claim = "its state is not only keys and values, so a wrong guess cannot be taken back"
        raise LoadError(UNSUPPORTED, f"{what}: {claim}")


def _draft_bytes(folder: str, on_cpu: bool) -> int:
    try:
        _read_config(Path(folder))
        return memory.weight_bytes(Path(folder), as_float32=on_cpu)
    except LoadError as e:
        raise refused(folder, e) from e


def _load_draft(api: Api, folder: str, tokenizer: Any) -> Draft:
    """Load a draft model. Raises LoadError also when it does not fit the model with that tokenizer."""
    try:
        net, config = _load_net(Path(folder), None)
        check_vocabulary(_load_tokenizer(api, Path(folder), config).get_vocab(), tokenizer.get_vocab())
        weights = _settle(net)
        vocabulary, plan = _probe(net)
        _check_cuttable(plan, "it cannot guess")
    except LoadError as e:
        raise refused(folder, e) from e
    return Draft(net, vocabulary, weights, plan)


def _settle(net: Any) -> int:
    """Give the weights of a model the type that they are used in; return their bytes."""
    if device() == "cpu":
        net.set_dtype(mx.float32)
        mx.eval(net.parameters())
    return sum(a.nbytes for a in _leaves(net.parameters()))


def _new_cache(net: Any) -> list[Any]:
    caches: list[Any] = importlib.import_module("mlx_lm.models.cache").make_prompt_cache(net)
    return caches


def _probe_quantised(net: Any, bits: int) -> tuple[int, memory.KVPlan]:
    """Run a few tokens with quantised keys and values; return the size of a group and what a row's state takes."""
    tokens, cache = mx.zeros((1, 4), mx.int32), _new_cache(net)
    mx.eval(net(tokens, cache=cache))
    group = quantised.group_size(cache, bits)
    cache = quantised.quantised(cache, bits, group)
    try:
        mx.eval(net(tokens, cache=cache))
    except Exception as e:
        raise quantised.does_not_run(bits, describe(e)) from e
    return group, memory.measure_kv(cache)


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise LoadError(BAD_MODEL, f"{folder} is not a folder")
    try:
        config = json.loads((folder / "config.json").read_text())
    except FileNotFoundError as e:
        raise LoadError(BAD_MODEL, f"no config.json in {folder}") from e
    except (OSError, ValueError, RecursionError) as e:
        raise LoadError(BAD_MODEL, f"config.json cannot be read: {describe(e)}") from e
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise LoadError(BAD_MODEL, "config.json has no model_type")
    if config.get("model_file"):
        raise LoadError(UNSUPPORTED, "config.json names code of its own (model_file), which is never run")
    return config


def _load_net(folder: Path, adapter: str | None) -> tuple[Any, dict[str, Any]]:
    utils = importlib.import_module("mlx_lm.utils")
    try:
        net, config = utils.load_model(folder)
        if adapter is not None:
            net = utils.load_adapters(net, adapter)
            net.eval()
    except MemoryError as e:
        raise LoadError(TOO_BIG, f"no memory for the weights: {describe(e)}") from e
    except Exception as e:  # whatever a folder can hold ends here as one line
        text = describe(e)
        unsupported = "not supported" in text or "trust_remote_code" in text
        raise LoadError(UNSUPPORTED if unsupported else BAD_MODEL, f"weights cannot be loaded: {text}") from e
    return net, config


def _load_tokenizer(api: Api, folder: Path, config: dict[str, Any]) -> Any:
    utils = importlib.import_module("mlx_lm.utils")
    try:
        with standins.for_tokenizer(folder, api.versions, api.whole):
            tokenizer = utils.load_tokenizer(folder, eos_token_ids=config.get("eos_token_id"))
        # The first use settles padding and truncation; from then on it is only read, and threads may share it.
        tokenizer.encode("a")
        return tokenizer
    except Exception as e:
        raise LoadError(BAD_MODEL, f"tokenizer cannot be loaded: {describe(e)}") from e


def _probe(net: Any) -> tuple[int, memory.KVPlan]:
    """Run a few tokens: return the width of the logits and what a row's state takes."""
    caches = importlib.import_module("mlx_lm.models.cache")
    try:
        cache = caches.make_prompt_cache(net)
        if not all(hasattr(layer, "merge") for layer in cache):
            names = sorted({type(layer).__name__ for layer in cache if not hasattr(layer, "merge")})
            raise LoadError(UNSUPPORTED, f"rows of this model cannot share a batch ({', '.join(names)})")
        logits = net(mx.zeros((1, 4), mx.int32), cache=cache)
        mx.eval(logits, [layer.state for layer in cache])
        # Some vocabularies are padded with minus infinity, so a whole line is judged, not each of its numbers.
        if not mx.all(mx.isfinite(mx.logsumexp(logits.astype(mx.float32), axis=-1))).item():
            raise LoadError(BAD_MODEL, NOT_FINITE)
        return int(logits.shape[-1]), memory.measure_kv(cache)
    except LoadError:
        raise
    except Exception as e:
        raise LoadError(INTERNAL, f"the model does not run: {describe(e)}") from e


def _context(config: dict[str, Any], tokenizer: Any) -> int:
    inner = config.get("text_config")
    for place in (config, inner if isinstance(inner, dict) else {}):
        for key in _CONTEXT_KEYS:
            if isinstance(place.get(key), int) and place[key] > 0:
                return int(place[key])
    most = getattr(tokenizer, "model_max_length", 0)
    return int(most) if isinstance(most, int) and 0 < most < 1 << 30 else _FALLBACK_CONTEXT


def _decoder(folder: Path) -> object:
    return _read_json(folder / "tokenizer.json").get("decoder")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _leaves(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return [leaf for v in tree.values() for leaf in _leaves(v)]
    if isinstance(tree, (list, tuple)):
        return [leaf for v in tree for leaf in _leaves(v)]
    return [tree]
