"""Answers side by side: our sampler against transformers' generate with a static cache, in turn, in one process.

    python bench/generate.py [--rows 16 64] [--group 8] [--dtype float32 bfloat16] [--pairs 5] [--default] [--cpu]

`--group 8`: each prompt is answered eight times, as reinforcement learning asks; 1: all prompts differ. Both sides draw
at temperature 1 from the whole vocabulary, end no answer early and start from the same token ids: tokens a second of
whole calls, prompts included. Each side answers once before the clock runs. transformers is given the static cache;
`--default` times its default cache as well. Any other process on the machine makes the figures worthless; where there
are such, `--cpu` counts the processor's seconds of one thread instead, and the job's name says so.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import records
from bench.speed import made_rows

from tunesmith.data.render import Renderer
from tunesmith.generate.decode import Sampler
from tunesmith.generate.limits import Limits
from tunesmith.models.load import load
from tunesmith.types import Message

MODEL = "smollm2-135m-instruct"
NEW_TOKENS = 64
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def prompts_of(renderer: Renderer, num: int) -> list[list[int]]:
    """Made-up questions, about 150 tokens each."""
    return [renderer.prompt([Message("user", row["messages"][0]["content"])]) for row in made_rows(num)]


def sides(dtype: torch.dtype, rows: int, group: int) -> tuple[dict[str, Callable[[], int]], float]:
    """(each side's call, which says how many tokens it wrote; mean tokens of a prompt)."""
    base, other = load(MODEL, dtype), load(MODEL, dtype)
    renderer = Renderer(base.tokenizer, 1024)
    prompts = [prompt for prompt in prompts_of(renderer, rows // group) for _ in range(group)]
    sampler = Sampler(base.model, base.head, renderer.text)
    longest, pad = max(map(len, prompts)), renderer.stop_ids[0]
    tokens = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])

    def ours() -> int:
        found = sampler(prompts, Limits(NEW_TOKENS, (), temperature=1.0, rows=rows))
        return sum(len(c.tokens) for c in found)

    def theirs(cache: str | None) -> Callable[[], int]:
        @torch.no_grad()
        def call() -> int:
            found = other.model.generate(  # type: ignore[operator]
                input_ids=tokens, attention_mask=mask, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS,
                do_sample=True, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=pad, cache_implementation=cache,
            )  # fmt: skip
            return int(found[:, longest:].numel())

        return call

    lengths = statistics.mean(map(len, prompts))
    return {"ours": ours, "static": theirs("static"), "default": theirs(None)}, lengths


def tokens_per_s(call: Callable[[], int], clock: Callable[[], float]) -> float:
    began = clock()
    return call() / (clock() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--group", type=int, default=8, help="answers to each prompt")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--default", action="store_true", help="transformers with its default cache too")
    parser.add_argument("--cpu", action="store_true", help="seconds of one thread, where other work is on the machine")
    args = parser.parse_args()
    clock = time.process_time if args.cpu else time.perf_counter
    if args.cpu:
        torch.set_num_threads(1)
    for dtype in args.dtype:
        for rows in args.rows:
            calls, prompt_tokens = sides(DTYPES[dtype], rows, args.group)
            if not args.default:
                del calls["default"]
            for call in calls.values():
                call()
            found: dict[str, list[float]] = {name: [] for name in calls}
            for pair in range(args.pairs):
                for name, call in calls.items():
                    found[name].append(tokens_per_s(call, clock))
                print(pair, *(f"{name} {speeds[-1]:.0f}" for name, speeds in found.items()), flush=True)
            records.keep(
                __file__,
                f"generation, {rows} rows, {args.group} a prompt, {dtype}{', CPU time' if args.cpu else ''}",
                {"model": MODEL, "prompt_tokens": round(prompt_tokens), "new_tokens": NEW_TOKENS, "temperature": 1.0},
                {
                    f"transformers, {name} cache": records.compared(found["ours"], speeds, "tokens/s")
                    for name, speeds in found.items()
                    if name != "ours"
                },
            )


if __name__ == "__main__":
    main()
