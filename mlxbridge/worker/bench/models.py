"""Model folders that are made for measurements: a float32 copy, and random weights in the shape of a real model."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A file of weights is at most about this large while it is written.
_SHARD_BYTES = 2 << 30


def float32_copy(folder: Path, into: Path) -> Path:
    """Write a model again with float32 weights, and return where. mlx-lm's server computes in the type it finds, and
    bfloat16 is many times slower on a CPU; the worker casts by itself.
    """
    import mlx.core as mx

    target = into / folder.name
    target.mkdir(parents=True)
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            shutil.copyfile(file, target / file.name)
            continue
        weights: Any = mx.load(str(file))
        cast = {k: v.astype(mx.float32) if mx.issubdtype(v.dtype, mx.floating) else v for k, v in weights.items()}
        mx.save_safetensors(str(target / file.name), cast, metadata={"format": "mlx"})
    config = json.loads((target / "config.json").read_text())
    for name in ("dtype", "torch_dtype"):
        if name in config:
            config[name] = "float32"
    (target / "config.json").write_text(json.dumps(config, indent=2))
    return target


@dataclass(frozen=True)
class Shape:
    """The sizes of a Qwen3 model."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    tied: bool
    head_dim: int = 128
    vocabulary: int = 151_936


# Of the published configurations of Qwen3; "test" is small enough for a CPU.
SHAPES = {
    "0.6B": Shape(hidden=1024, layers=28, heads=16, kv_heads=8, inner=3072, tied=True),
    "8B": Shape(hidden=4096, layers=36, heads=32, kv_heads=8, inner=12_288, tied=False),
    "test": Shape(hidden=64, layers=2, heads=2, kv_heads=1, inner=128, tied=True, head_dim=32, vocabulary=4096),
}


def random_model(name: str, tokenizer: Path, into: Path) -> Path:
    """Write a model of a shape with random bfloat16 weights and the tokenizer of a folder; return where.

    Ids beyond that tokenizer's own get words, since mlx-lm's server needs a text for each token that comes.
    """
    shape, target = SHAPES[name], into / name
    target.mkdir(parents=True)
    _write_tokenizer(tokenizer, target, shape.vocabulary)
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "dtype": "bfloat16",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "intermediate_size": shape.inner,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "rms_norm_eps": 1e-6,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": 40_960,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": shape.tied,
        "attention_bias": False,
        "hidden_act": "silu",
        "eos_token_id": 2,
    }
    (target / "config.json").write_text(json.dumps(config, indent=2))
    _write_weights(shape, target)
    return target


def _write_tokenizer(source: Path, target: Path, vocabulary: int) -> None:
    for file in ("chat_template.jinja", "tokenizer_config.json", "generation_config.json"):
        if (source / file).exists():
            shutil.copyfile(source / file, target / file)
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    known = max([*words.values(), *(t["id"] for t in tokenizer["added_tokens"])]) + 1
    # In the byte alphabet of such tokenizers this letter is a space.
    words.update({f"\u0120w{i}": i for i in range(known, vocabulary)})
    (target / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))


def _shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all weights but the norms', which are ones."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    out: dict[str, tuple[int, ...]] = {"model.embed_tokens": (shape.vocabulary, shape.hidden)}
    if not shape.tied:
        out["lm_head"] = (shape.vocabulary, shape.hidden)
    for i in range(shape.layers):
        layer = f"model.layers.{i}"
        out |= {
            f"{layer}.self_attn.q_proj": (queries, shape.hidden),
            f"{layer}.self_attn.k_proj": (keys, shape.hidden),
            f"{layer}.self_attn.v_proj": (keys, shape.hidden),
            f"{layer}.self_attn.o_proj": (shape.hidden, queries),
            f"{layer}.mlp.gate_proj": (shape.inner, shape.hidden),
            f"{layer}.mlp.up_proj": (shape.inner, shape.hidden),
            f"{layer}.mlp.down_proj": (shape.hidden, shape.inner),
        }
    return out


def _norms(shape: Shape) -> dict[str, int]:
    out = {"model.norm": shape.hidden}
    for i in range(shape.layers):
        layer = f"model.layers.{i}"
        out |= {f"{layer}.input_layernorm": shape.hidden, f"{layer}.post_attention_layernorm": shape.hidden}
        out |= {f"{layer}.self_attn.q_norm": shape.head_dim, f"{layer}.self_attn.k_norm": shape.head_dim}
    return out


def _write_weights(shape: Shape, target: Path) -> None:
    import mlx.core as mx

    mx.random.seed(0)
    pending: dict[str, Any] = {f"{k}.weight": mx.ones((n,), mx.bfloat16) for k, n in _norms(shape).items()}
    files = 0

    def flush() -> None:
        nonlocal files
        files += 1
        mx.save_safetensors(str(target / f"model-{files:05}.safetensors"), pending, metadata={"format": "mlx"})
        pending.clear()

    for name, size in _shapes(shape).items():
        pending[f"{name}.weight"] = 0.02 * mx.random.normal(size, mx.bfloat16)
        if sum(w.nbytes for w in pending.values()) > _SHARD_BYTES:
            flush()
    flush()
    mx.clear_cache()  # others compute on the same device
