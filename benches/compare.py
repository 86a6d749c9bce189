#!/usr/bin/env python3
"""Kolosal and llama.cpp on the same machine, alternated in one run.

    benches/compare.py --llama DIR --kolosal target/release/kolosal MODEL.gguf [MODEL.gguf …]

DIR holds llama-bench and llama-batched-bench. Each round runs both programs once, one after the
other; the table shows medians over rounds and the ratio of the medians. Prints Markdown.
"""

import argparse
import json
import statistics
import subprocess
from pathlib import Path

BATCHES = [1, 4, 8, 16]


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr[-2000:]}")
    return done.stdout


def kolosal(args, model):
    """Test name -> tokens a second."""
    out = run([args.kolosal, "bench", "-m", model, "-p", str(args.prompt), "-n", str(args.generate),
               "-b", ",".join(map(str, BATCHES)), "-t", str(args.threads), "-r", "1", "--json"])
    rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return {row["test"].replace("@b1", "") if row["batch"] == 1 else row["test"]: row["tok_s"] for row in rows}


def llama(args, model):
    """The same names from llama-bench (one sequence) and llama-batched-bench (several)."""
    out = run([args.llama / "llama-bench", "-m", model, "-p", str(args.prompt), "-n", str(args.generate),
               "-t", str(args.threads), "-r", "1", "-o", "json"])
    found = {}
    for row in json.loads(out):
        name = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
        found[name] = row["avg_ts"]
    several = [batch for batch in BATCHES if batch > 1]
    out = run([args.llama / "llama-batched-bench", "-m", model, "-c", "8192", "-b", "2048", "-ub", "512",
               "-npp", "16", "-ntg", str(args.generate), "-npl", ",".join(map(str, several)),
               "-t", str(args.threads), "--output-format", "jsonl"])
    for line in out.splitlines():
        if line.startswith("{"):
            row = json.loads(line)
            found[f"tg{args.generate}@b{row['pl']}"] = row["speed_tg"]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama", type=Path, required=True, help="folder of llama.cpp's programs")
    parser.add_argument("--kolosal", type=Path, default=Path("target/release/kolosal"))
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-p", "--prompt", type=int, default=512)
    parser.add_argument("-n", "--generate", type=int, default=64)
    parser.add_argument("-r", "--rounds", type=int, default=3)
    parser.add_argument("models", nargs="+", type=Path)
    args = parser.parse_args()
    print("| model | test | kolosal, tok/s | llama.cpp, tok/s | ratio |\n|---|---|---|---|---|")
    for model in args.models:
        ours, theirs = [], []
        for round_ in range(args.rounds):
            pair = [(ours, kolosal), (theirs, llama)]
            for into, program in pair if round_ % 2 == 0 else reversed(pair):
                into.append(program(args, model))
        for test in ours[0]:
            if test not in theirs[0]:
                continue
            a = statistics.median(row[test] for row in ours)
            b = statistics.median(row[test] for row in theirs)
            print(f"| {model.stem} | {test} | {a:.0f} | {b:.0f} | {a / b:.2f} |", flush=True)


if __name__ == "__main__":
    main()
