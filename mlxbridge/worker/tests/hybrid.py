"""Models with random weights whose state cannot be cut, made in a folder of the test's."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

TINY = Path(__file__).resolve().parents[3] / "internal/library/tiny"

CONVOLUTION: dict[str, Any] = {
    "model_type": "lfm2",
    "vocab_size": 2048,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16384,
    "norm_eps": 1e-5,
    "conv_bias": False,
    "conv_L_cache": 3,
    "block_dim": 32,
    "block_ff_dim": 48,
    "block_multiple_of": 8,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": False,
    "layer_types": ["conv", "full_attention", "conv", "full_attention"],
    "eos_token_id": 2,
}
WINDOW: dict[str, Any] = {
    "model_type": "gemma3_text",
    "vocab_size": 2048,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "head_dim": 32,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 32,
    "sliding_window": 24,
    "sliding_window_pattern": 2,
    "max_position_embeddings": 16384,
    "eos_token_id": 2,
}
DELTA: dict[str, Any] = {
    "model_type": "qwen3_next",
    "vocab_size": 2048,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "num_experts": 0,
    "num_experts_per_tok": 1,
    "decoder_sparse_step": 1,
    "shared_expert_intermediate_size": 32,
    "mlp_only_layers": [],
    "moe_intermediate_size": 32,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
    "max_position_embeddings": 16384,
    "full_attention_interval": 2,
    "eos_token_id": 2,
}


def make(folder: Path, config: dict[str, Any]) -> Path:
    """Write a model of these sizes with tiny's vocabulary; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TINY / name, folder / name)
    (folder / "config.json").write_text(json.dumps(config))
    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    mx.random.seed(7)
    net = module.Model(module.ModelArgs.from_dict(config))
    # Wide weights make answers that differ from token to token.
    weights = {k: mx.random.normal(v.shape) * (0.5 if v.ndim > 1 else 1) for k, v in tree_flatten(net.parameters())}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    return folder
