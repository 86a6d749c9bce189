#!/usr/bin/env python3
"""mistral.rs on the CPU through its Python package, measured as `kolosal bench` measures ours.

    pip install mistralrs
    benches/mistralrs_bench.py MODEL.gguf

Prints a JSON line for each test, with the names of `kolosal bench --json`. The package tells the
time of a prompt and of what was generated apart. One sequence alone: a runner of the package takes
no second request from another thread ("Already borrowed").
"""

import argparse
import json
import os
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("-t", "--threads", type=int, default=2)
parser.add_argument("-p", "--prompt", type=int, default=512)
parser.add_argument("-n", "--generate", type=int, default=64)
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
    runner = Runner(which=which, prefix_cache_n=0)
    complete(runner, 16, 4)
    usage = complete(runner, args.prompt, 1)
    report(f"pp{args.prompt}", usage.prompt_tokens / usage.total_prompt_time_sec)
    usage = complete(runner, 16, args.generate)
    report(f"tg{args.generate}@b1", usage.avg_compl_tok_per_sec)


if __name__ == "__main__":
    main()
