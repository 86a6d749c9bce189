#!/usr/bin/env python3
"""Kolosal and its peers on the same machine, in turns within one run.

    benches/compare.py --llama DIR --candle BIN --mistralrs PYTHON MODEL.gguf [MODEL.gguf …]

DIR holds llama-bench and llama-batched-bench; BIN is the built bench `candle`; PYTHON is an
interpreter with the package mistralrs. Each is optional. Every round runs all programs once, one
after the other; the table shows medians over rounds and how many times as fast we are. Prints
Markdown.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

BATCHES = [1, 4, 8, 16]
HERE = Path(__file__).parent


def run(command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=1800)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr[-2000:]}")
    return done.stdout


def lines(out):
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def named(rows):
    """Test name -> tokens a second."""
    return {row["test"].removesuffix("@b1"): row["tok_s"] for row in rows}


def batches(args):
    return ",".join(map(str, args.batch))


def kolosal(args, model):
    return named(lines(run([args.kolosal, "bench", "-m", model, "-p", args.prompt, "-n", args.generate,
                            "-b", batches(args), "-t", args.threads, "-r", "1", "--json"])))


def llama(args, model):
    """From llama-bench (one sequence) and llama-batched-bench (several)."""
    out = run([args.llama / "llama-bench", "-m", model, "-p", args.prompt, "-n", args.generate,
               "-t", args.threads, "-r", "1", "-o", "json"])
    found = {}
    for row in json.loads(out):
        name = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
        found[name] = row["avg_ts"]
    several = ",".join(str(batch) for batch in args.batch if batch > 1)
    if several:
        out = run([args.llama / "llama-batched-bench", "-m", model, "-c", "8192", "-b", "2048", "-ub", "512",
                   "-npp", "16", "-ntg", args.generate, "-npl", several, "-t", args.threads,
                   "--output-format", "jsonl"])
        found |= {f"tg{args.generate}@b{row['pl']}": row["speed_tg"] for row in lines(out)}
    return found


def candle(args, model):
    """One sequence: its llama cannot take several ("input tensor is not contiguous")."""
    return named(lines(run([args.candle, model, "--prompt", args.prompt, "--generate", args.generate,
                            "--batch", "1", "--threads", args.threads])))


def mistralrs(args, model):
    return named(lines(run([args.mistralrs, HERE / "mistralrs_bench.py", "-t", args.threads, "-p", args.prompt,
                            "-n", args.generate, model.resolve()])))


PEERS = {"llama.cpp": ("llama", llama), "candle": ("candle", candle), "mistral.rs": ("mistralrs", mistralrs)}


def measured(args, model, programs):
    """Program -> its results, a dictionary for each round; a program that fails has fewer."""
    results = {name: [] for name in programs}
    for round_ in range(args.rounds):
        turn = list(programs.items())
        for name, measure in turn if round_ % 2 == 0 else reversed(turn):
            try:
                results[name].append(measure(args, model))
            except (RuntimeError, subprocess.TimeoutExpired) as failure:
                print(f"{name} with {model.name}: {failure}", file=sys.stderr)
    return results


def cells(results, test, peers):
    """Our median, then each peer's and the ratio."""
    def median(name):
        values = [row[test] for row in results[name] if test in row]
        return statistics.median(values) if values else None

    ours = median("kolosal")
    yield f"{ours:.0f}"
    for name in peers:
        theirs = median(name)
        yield from (f"{theirs:.0f}", f"{ours / theirs:.2f}") if theirs else ("–", "–")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama", type=Path, help="folder of llama.cpp's programs")
    parser.add_argument("--candle", type=Path, help="the built bench `candle`")
    parser.add_argument("--mistralrs", type=Path, help="a Python interpreter with mistralrs")
    parser.add_argument("--kolosal", type=Path, default=Path("target/release/kolosal"))
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-p", "--prompt", type=int, default=512)
    parser.add_argument("-n", "--generate", type=int, default=64)
    parser.add_argument("-b", "--batch", type=lambda text: [int(n) for n in text.split(",")], default=BATCHES)
    parser.add_argument("-r", "--rounds", type=int, default=3)
    parser.add_argument("models", nargs="+", type=Path)
    args = parser.parse_args()
    peers = [name for name, (option, _) in PEERS.items() if getattr(args, option)]
    programs = {"kolosal": kolosal} | {name: PEERS[name][1] for name in peers}
    heading = ["model", "test", "kolosal"] + [cell for name in peers for cell in (name, "ratio")]
    print("| " + " | ".join(heading) + " |\n|---|---|" + "---:|" * (len(heading) - 2))
    for model in args.models:
        results = measured(args, model, programs)
        if not results["kolosal"]:
            raise SystemExit("no round of ours succeeded")
        for test in results["kolosal"][0]:
            print("| " + " | ".join([model.stem, test, *cells(results, test, peers)]) + " |", flush=True)


if __name__ == "__main__":
    main()
