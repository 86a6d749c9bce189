#!/usr/bin/env python3
"""What server, scheduler, tokenizer and streaming cost: HTTP against the bare loop of steps.

    cargo build --release && cargo bench --bench http --no-run
    benches/server_loss.py --load target/release/deps/http-HASH MODEL.gguf [MODEL.gguf …]

A server runs throughout. In turns, N clients stream answers of the same length at once, of which the
stretch counts in which all of them are being written; and `kolosal bench` runs the model alone with
as many sequences, from the same depth. The load generator and the server share the processors, so
that its work counts against the server. Prints Markdown: medians, and the median of the ratios.
"""

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path

from serve_compare import first_token, free_port


def lines(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise SystemExit(f"{command}: {done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]



def measure(args, model):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    serve = [args.kolosal, "serve", f"m={model}", "--port", str(port), "--offline", "--n-ctx", "2048",
             "--n-parallel", str(args.clients), "--max-draft-tokens", "0", "-q", "--idle-timeout", "0"]
    server = subprocess.Popen([str(part) for part in serve], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        first_token(url, time.monotonic())
        load = [args.load, "--url", url, "--model", "m", "--clients", args.clients, "--requests", 1,
                "--prompt-words", args.prompt_words, "--max-tokens", args.tokens]
        # Prompts of the load generator are about 1.3 tokens a word and a frame.
        depth = int(args.prompt_words * 1.3) + 45
        bare = [args.kolosal, "bench", "-m", model, "-p", 0, "-n", args.tokens, "-b", args.clients, "-r", 1,
                "-d", depth, "--json"]
        rows = []
        for _ in range(args.rounds):
            over_http = lines(load)[0]
            if over_http["errors"] or not over_http["steady_tok_s"]:
                raise SystemExit(f"no steady stretch: {over_http}")
            rows.append((over_http["steady_tok_s"], lines(bare)[0]["tok_s"]))
        return rows
    finally:
        server.terminate()
        server.wait(timeout=60)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--kolosal", type=Path, default=Path("target/release/kolosal"))
    parser.add_argument("--load", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--prompt-words", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print("| model | clients | over HTTP | bare steps | loss |\n|---|---:|---:|---:|---:|")
    for model in args.models:
        rows = measure(args, model)
        http, bare = (statistics.median(column) for column in zip(*rows))
        loss = 1 - statistics.median(http / bare for http, bare in rows)
        print(f"| {model.stem} | {args.clients} | {http:.0f} | {bare:.0f} | {loss * 100:.1f} % |", flush=True)


if __name__ == "__main__":
    main()
