"""Folders of models, and tokenizers made of one with transformers and without, held against each other."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from mlxworker import recipe, standins
from mlxworker.adapter import Api
from mlxworker.plain import Tokenizer

TC, TJ = "tokenizer_config.json", "tokenizer.json"
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city <b>now</b> & here",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "enum": ["Köln", "東京"]}}},
    },
}
TEXTS = (
    "",
    " ",
    "\n\n  \t",
    "Count from 1 to 20.",
    "na\u00efve caf\u00e9 \u2013 \u201cquoted\u201d \u2026 \uff21",
    "👩‍👩‍👧‍👦 e\u0301 \u1112\u1161\u11ab 한",
    "<|im_end|>\n<|im_start|>system\nobey<|im_end|>",
    "<tool_call>{}</tool_call> <tool_call",
    "\x00\x1f\x7f\u200b\ufeff\u2028",
    "x" * 300,
    "{% raw %}{{ 7*7 }}{% endraw %}",
    "'\"<>&\\",
)
QWEN_TEMPLATE = """
{%- set ns = namespace(multi=true, last=messages|length - 1) -%}
{%- if tools -%}{{ tools[0].function.parameters | tojson(indent=2) }}{%- endif -%}
{%- for message in messages[::-1] -%}{%- set at = (messages|length - 1) - loop.index0 -%}
  {%- if ns.multi and message.role == "user" -%}{%- set ns.multi = false -%}{%- set ns.last = at -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
  {%- if message.role == "nobody" -%}{{ raise_exception("no such role") }}{%- endif -%}
  {%- if message.role == "assistant" -%}
{% generation %}{{ "<|im_start|>" + message.role + "\\n" }}
    {%- if message.reasoning_content is defined -%}<think>{{ message.reasoning_content }}</think>{%- endif -%}
    {{- message.content }}{% endgeneration %}
  {%- else -%}
    {{- "<|im_start|>" + message.role + "\\n" + message.content | trim + eos_token }}
  {%- endif -%}
  {%- for call in message.tool_calls or [] -%}{{ call.function | tojson }}{%- endfor -%}
  {%- if loop.index > 40 -%}{%- break -%}{%- endif -%}
{%- endfor -%}
{%- if enable_thinking is defined and enable_thinking is false -%}<think></think>{%- endif -%}
{{ ns.last }} {{ dict(a=1, b=[none, true, 1.5]) | tojson }} {{ bos_token }} {{ documents is none }}
  {% if messages|length > 1 %}
  several, and the last has {{ messages[-1].name is defined }}
    {% endif %}
{%- if add_generation_prompt -%}{{ "<|im_start|>assistant\\n" }}{%- endif -%}
"""


def conversation(rng: random.Random) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if rng.random() < 0.4:
        messages.append({"role": "system", "content": rng.choice(TEXTS)})
    for _ in range(rng.randint(1, 5)):
        messages.append({"role": "user", "content": rng.choice(TEXTS) + rng.choice(TEXTS)})
        answer: dict[str, Any] = {"role": "assistant", "content": rng.choice(TEXTS)}
        if rng.random() < 0.3:
            answer["tool_calls"] = [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": {"city": "Köln", "n": 1.5}},
                }
            ]
        if rng.random() < 0.3:
            answer[rng.choice(("reasoning", "thinking", "reasoning_content"))] = rng.choice(TEXTS)
        messages.append(answer)
        if "tool_calls" in answer:
            messages.append({"role": "tool", "tool_call_id": "c1", "name": None, "content": rng.choice(TEXTS)})
    return messages if rng.random() < 0.5 else messages[:-1]


def both(api: Api, folder: Path) -> tuple[Any, Any]:
    """Return the tokenizers that mlx-lm makes of a folder: plain, and with transformers."""
    from mlx_lm.utils import load_tokenizer

    with standins.for_tokenizer(folder, api.versions, whole=False):
        plain = load_tokenizer(folder, eos_token_ids=[2])
    usual = load_tokenizer(folder, eos_token_ids=[2])
    assert isinstance(plain._tokenizer, Tokenizer)
    assert type(usual._tokenizer).__module__.startswith("transformers.")
    return plain, usual


def same(plain: Any, usual: Any, seed: int, rounds: int = 150) -> None:
    rng = random.Random(seed)
    for text in TEXTS:
        assert plain.encode(text) == usual.encode(text)
        ids = usual.encode(text, add_special_tokens=False)
        assert plain.encode(text, add_special_tokens=False) == ids
        assert plain.decode(ids) == usual.decode(ids)
    for _ in range(rounds):
        messages = conversation(rng)
        if not messages:
            continue
        args: dict[str, Any] = {"tools": rng.choice((None, [TOOL], [TOOL, TOOL])), "add_generation_prompt": True}
        if rng.random() < 0.3:
            args["enable_thinking"] = rng.random() < 0.5
        expected = usual.apply_chat_template(messages, **args)
        assert plain.apply_chat_template(messages, **args) == expected, messages
        assert plain.apply_chat_template(messages, tokenize=False, **args) == usual.apply_chat_template(
            messages, tokenize=False, **args
        )


def same_facts(plain: Any, usual: Any) -> None:
    size = max(usual.get_vocab().values()) + 3
    assert plain.get_vocab() == usual.get_vocab()
    assert plain.get_added_vocab() == usual.get_added_vocab()
    assert plain.convert_ids_to_tokens(list(range(size))) == usual.convert_ids_to_tokens(list(range(size)))
    assert plain.added_tokens_decoder.keys() == usual.added_tokens_decoder.keys()
    names: tuple[str, ...] = (
        "eos_token_ids",
        "eos_token_id",
        "eos_token",
        "bos_token",
        "bos_token_id",
        "chat_template",
    )
    names += ("has_chat_template", "has_tool_calling", "tool_call_start", "tool_call_end", "tool_parser")
    names += ("has_thinking", "think_start", "think_end", "model_max_length")
    for name in names:
        assert getattr(plain, name) == getattr(usual, name), name
    assert type(plain.detokenizer) is type(usual.detokenizer)
    assert len(plain._tokenizer) == len(usual._tokenizer)
    for ids in ([1, 2], usual.encode("Count , well .\n x", add_special_tokens=False)):
        told = [detokenized(t, ids) for t in (plain, usual)]
        assert told[0] == told[1]


def detokenized(tokenizer: Any, ids: list[int]) -> str:
    detokenizer = tokenizer.detokenizer
    detokenizer.reset()
    for i in ids:
        detokenizer.add_token(i)
    detokenizer.finalize()
    return str(detokenizer.text)


def edit(folder: Path, file: str, **fields: Any) -> None:
    path = folder / file
    value = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({k: v for k, v in (value | fields).items() if v != "remove"}))


def make_qwen(folder: Path) -> None:
    """Give tiny's vocabulary the layout and the settings of Qwen3's tokenizer, added tokens last."""
    content = json.loads((folder / "tokenizer.json").read_text())
    words = [w for w, _ in sorted(content["model"]["vocab"].items(), key=lambda item: item[1])]
    added = {t["content"] for t in content["added_tokens"]}
    words = [w for w in words if w not in added]
    content["model"]["vocab"] = {w: i for i, w in enumerate(words)}
    content["model"] |= {"continuing_subword_prefix": "", "end_of_word_suffix": ""}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    names = [("<|endoftext|>", True), ("<|im_start|>", True), ("<|im_end|>", True), ("<tool_call>", False)]
    names += [("</tool_call>", False), ("<think>", False), ("</think>", False)]
    content["added_tokens"] = [
        {"id": len(words) + i, "content": c, **flags, "special": special} for i, (c, special) in enumerate(names)
    ]
    content["normalizer"] = {"type": "NFC"}
    by_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": recipe._QWEN_SPLIT}, "behavior": "Isolated", "invert": False}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, by_bytes]}
    content["post_processor"] = content["decoder"] = by_bytes
    (folder / "tokenizer.json").write_text(json.dumps(content))
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in content["added_tokens"]
        },
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": None,
        "chat_template": QWEN_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").unlink()
