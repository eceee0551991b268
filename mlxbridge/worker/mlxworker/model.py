"""A model folder on disk becomes a model in memory."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlxworker import bounds, channels, memory, standins
from mlxworker.adapter import Api
from mlxworker.detok import Vocabulary
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
    kv: memory.KVPlan
    device: str
    architecture: str
    grammars: Grammars
    channels: channels.Format
    stop: Any = field(repr=False)

    def budget(self, limit: int) -> memory.Budget:
        """Return the memory plan of a worker that may use that many bytes; 0 is no limit."""
        inner = self.config.get("text_config")
        hidden = self.config.get("hidden_size") or (inner or {}).get("hidden_size") or 4096
        spare = memory.GIB // 2 if self.device == "gpu" else 8 << 20
        return memory.Budget(limit, self.weight_bytes, self.kv, self.vocabulary, int(hidden), spare)

    def new_cache(self) -> list[Any]:
        """Return an empty cache for one row."""
        caches: list[Any] = importlib.import_module("mlx_lm.models.cache").make_prompt_cache(self.net)
        return caches


def device() -> str:
    """Return what MLX computes on: "gpu" or "cpu"."""
    return "gpu" if mx.default_device().type == mx.gpu else "cpu"


def load(api: Api, order: Load) -> Model:
    """Load the model of a folder. Raises LoadError that says what is wrong with it."""
    folder = Path(order.folder)
    config = _read_config(folder)
    on_cpu = device() == "cpu"
    need = memory.weight_bytes(folder, as_float32=on_cpu)
    if order.memory_bytes and need > order.memory_bytes:
        raise LoadError(TOO_BIG, f"the weights of {order.name} need {need} bytes, {order.memory_bytes} are given")
    memory.set_limits(order.memory_bytes)
    net, config = _load_net(folder, order.adapter)
    if on_cpu:
        net.set_dtype(mx.float32)
        mx.eval(net.parameters())
    weights = sum(a.nbytes for a in _leaves(net.parameters()))
    memory.wire_weights(weights)
    tokenizer = _load_tokenizer(api, folder, config)
    eos = sorted(t for t in tokenizer.eos_token_ids if isinstance(t, int))
    words = Vocabulary(tokenizer, _decoder(folder))
    vocabulary, plan = _probe(net)
    return Model(
        api=api,
        folder=folder,
        net=net,
        tokenizer=tokenizer,
        words=words,
        config=config,
        defaults=_read_json(folder / "generation_config.json"),
        context=_context(config, tokenizer),
        vocabulary=vocabulary,
        eos=eos,
        most_token_bytes=bounds.most_token_bytes(tokenizer, words),
        weight_bytes=weights,
        kv=plan,
        device=device(),
        architecture=str(config.get("model_type", "")),
        grammars=Grammars(folder, vocabulary, eos),
        channels=channels.format_of(tokenizer),
        stop=api.make_stop(eos),
    )


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise LoadError(BAD_MODEL, f"{folder} is not a folder")
    try:
        config = json.loads((folder / "config.json").read_text())
    except FileNotFoundError as e:
        raise LoadError(BAD_MODEL, f"no config.json in {folder}") from e
    except (OSError, ValueError) as e:
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
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _leaves(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return [leaf for v in tree.values() for leaf in _leaves(v)]
    if isinstance(tree, (list, tuple)):
        return [leaf for v in tree for leaf in _leaves(v)]
    return [tree]
