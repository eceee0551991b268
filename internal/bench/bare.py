"""Measure mlx-lm's own batch_generate, as nothing of ours does it: the yardstick of `make bench`.

One line of JSON comes in for each measurement, one goes out: {"prompts": [...], "max_tokens": n} and {"tokens",
"seconds", "first_seconds"}. The model is float32, as the worker has it on a CPU.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from typing import Any


def main() -> None:
    """Load the model named on the command line and answer until standard input ends."""
    import mlx.core as mx
    from mlx_lm import load

    model, tokenizer = load(sys.argv[1])
    if platform.system() != "Darwin":
        model.set_dtype(mx.float32)
        mx.eval(model.parameters())
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        ask = json.loads(line)
        print(json.dumps(measure(model, tokenizer, ask["prompts"], ask["max_tokens"])), flush=True)


def measure(model: Any, tokenizer: Any, prompts: list[str], max_tokens: int) -> dict[str, float]:
    """Answer all prompts at once, from text to text as a server has to.

    The time to the first token is the median of the rows', on a generator of its own.
    """
    from mlx_lm import batch_generate
    from mlx_lm.generate import BatchGenerator

    def encode() -> list[list[int]]:
        return [
            tokenizer.apply_chat_template([{"role": "user", "content": p}], add_generation_prompt=True) for p in prompts
        ]

    generator = BatchGenerator(model, max_tokens=max_tokens, stop_tokens=[[t] for t in tokenizer.eos_token_ids])
    began = time.perf_counter()
    rows = encode()
    generator.insert(rows)
    firsts: dict[int, float] = {}
    while len(firsts) < len(rows):
        for answer in generator.next()[1]:
            firsts.setdefault(answer.uid, time.perf_counter() - began)
    del generator
    began = time.perf_counter()
    response = batch_generate(model, tokenizer, encode(), max_tokens=max_tokens)
    seconds = time.perf_counter() - began
    return {"tokens": float(response.stats.generation_tokens), "seconds": seconds, "first_seconds": statistics.median(firsts.values())}


if __name__ == "__main__":
    main()
