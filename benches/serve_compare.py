#!/usr/bin/env python3
"""Kolosal and llama-server over HTTP on the same machine, in turns.

    cargo build --release && cargo bench --bench http --no-run
    benches/serve_compare.py --llama DIR --load target/release/deps/http-HASH MODEL.gguf [MODEL.gguf …]

For each model, each round starts one server, measures it alone at every number of clients, and
ends it; then the other. Prints Markdown: medians over rounds of tokens a second and of the time to
first token (p95), peak memory (VmHWM), and the time from the start of the process to the first
token with a warm file cache. `--json FILE` keeps the lines of the load generator for plot.py.
"""

import argparse
import json
import socket
import statistics
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def commands(args, model, port):
    widest = max(args.clients)
    return {
        "kolosal": [args.kolosal, "serve", f"m={model}", "--port", str(port), "--n-ctx", str(args.n_ctx),
                    "--n-parallel", str(widest), "--offline"],
        "llama-server": [args.llama / "llama-server", "-m", model, "--port", str(port), "-c",
                         str(args.n_ctx * widest), "-np", str(widest), "-t", str(args.threads), "--no-webui"],
    }


def first_token(url, started):
    """Seconds from `started` until a request for one token is answered."""
    body = json.dumps({"model": "m", "max_tokens": 1, "temperature": 0,
                       "messages": [{"role": "user", "content": "Hello"}]}).encode()
    while time.monotonic() - started < 120:
        request = urllib.request.Request(f"{url}/v1/chat/completions", body,
                                         {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                answer.read()
                return time.monotonic() - started
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.005)
    raise SystemExit(f"{url} does not answer")


def peak_mib(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def measure(args, program, command, port, label):
    """One life of a server: start-up, load, memory."""
    url = f"http://127.0.0.1:{port}"
    started = time.monotonic()
    server = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    try:
        startup = first_token(url, started)
        load = [str(args.load), "--url", url, "--model", "m", "--clients",
                ",".join(map(str, args.clients)), "--requests", str(args.requests), "--label", label]
        done = subprocess.run(load, capture_output=True, text=True, timeout=1800)
        if done.returncode != 0:
            raise SystemExit(f"{program}: {done.stderr[-2000:]}")
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        return {"startup": startup, "rows": rows, "mib": peak_mib(server.pid)}
    finally:
        server.terminate()
        server.wait(timeout=60)


def table(model, lives, clients):
    median = statistics.median
    for index, count in enumerate(clients):
        cells = [f"{model.stem}", str(count)]
        for key, digits in (("tok_s", 0), ("ttft_ms_p95", 0)):
            ours, theirs = (median(life["rows"][index][key] for life in lives[name])
                            for name in ("kolosal", "llama-server"))
            cells += [f"{ours:.{digits}f}", f"{theirs:.{digits}f}", f"{ours / theirs:.2f}"]
        failed = [sum(life["rows"][index]["errors"] for life in lives[name])
                  for name in ("kolosal", "llama-server")]
        cells.append(f"{failed[0]} / {failed[1]}")
        print("| " + " | ".join(cells) + " |", flush=True)
    for key, unit in (("mib", "MiB at most"), ("startup", "s from start to first token")):
        ours, theirs = (median(life[key] for life in lives[name]) for name in ("kolosal", "llama-server"))
        print(f"\n{model.stem}: {ours:.2f} {unit}, llama-server {theirs:.2f} ({ours / theirs:.2f})\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama", type=Path, required=True, help="folder of llama-server")
    parser.add_argument("--load", type=Path, required=True, help="the built http bench")
    parser.add_argument("--kolosal", type=Path, default=Path("target/release/kolosal"))
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-c", "--clients", type=lambda text: [int(n) for n in text.split(",")],
                        default=[1, 4, 8, 16])
    parser.add_argument("--requests", type=int, default=2, help="of each client")
    parser.add_argument("--n-ctx", type=int, default=1024)
    parser.add_argument("-r", "--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("models", nargs="+", type=Path)
    args = parser.parse_args()
    print("| model | clients | tok/s | llama-server | ratio | TTFT p95, ms | llama-server | ratio | failed |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    lines = []
    for model in args.models:
        lives = {"kolosal": [], "llama-server": []}
        for round_ in range(args.rounds):
            port = free_port()
            order = list(commands(args, model, port).items())
            for program, command in order if round_ % 2 == 0 else reversed(order):
                life = measure(args, program, command, port, f"{program}, {model.stem}")
                lives[program].append(life)
                lines += life["rows"]
        table(model, lives, args.clients)
    if args.json:
        args.json.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
