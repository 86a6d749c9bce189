#!/usr/bin/env python3
"""mistral.rs on the CPU through its Python package, measured as `kolosal bench` measures ours.

    pip install mistralrs
    benches/mistralrs_bench.py MODEL.gguf

Prints a JSON line for each test, with the names of `kolosal bench --json`. The package tells the
time of a prompt and of what was generated apart; several sequences are requests that begin
together, timed as a whole, their short prompts included.
"""

import argparse
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("-t", "--threads", type=int, default=2)
parser.add_argument("-p", "--prompt", type=int, default=512)
parser.add_argument("-n", "--generate", type=int, default=64)
parser.add_argument("-b", "--batch", type=lambda text: [int(n) for n in text.split(",")], default=[1, 4, 8, 16])
parser.add_argument("model", type=Path)
args = parser.parse_args()
os.environ["RAYON_NUM_THREADS"] = str(args.threads)

from mistralrs import CompletionRequest, Runner, Which  # noqa: E402 (its pool reads the variable when it loads)


def complete(runner, words, max_tokens):
    """The usage of one completion."""
    request = CompletionRequest(model="default", prompt=" the" * words, max_tokens=max_tokens,
                                temperature=0.0, ignore_eos=True)
    return runner.send_completion_request(request).usage


def report(test, tok_s):
    print(json.dumps({"test": test, "tok_s": tok_s}), flush=True)


def main():
    which = Which.GGUF(quantized_model_id=str(args.model.parent), quantized_filename=args.model.name)
    runner = Runner(which=which, prefix_cache_n=0, max_seqs=max(args.batch))
    complete(runner, 16, 4)
    usage = complete(runner, args.prompt, 1)
    report(f"pp{args.prompt}", usage.prompt_tokens / usage.total_prompt_time_sec)
    for batch in args.batch:
        start = time.monotonic()
        with ThreadPoolExecutor(batch) as pool:
            usages = list(pool.map(lambda _: complete(runner, 16, args.generate), range(batch)))
        if batch == 1:
            report(f"tg{args.generate}@b1", usages[0].avg_compl_tok_per_sec)
        else:
            report(f"tg{args.generate}@b{batch}",
                   sum(usage.completion_tokens for usage in usages) / (time.monotonic() - start))


if __name__ == "__main__":
    main()
