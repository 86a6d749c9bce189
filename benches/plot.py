#!/usr/bin/env python3
"""Draws what `cargo bench --bench http` prints: tokens a second and time to first token, by clients.

    benches/plot.py OUT.svg RESULTS.jsonl [RESULTS.jsonl …]

Every line of the files is a JSON object; lines with the same `label` become one curve.
"""

import json
import sys
from html import escape
from pathlib import Path

COLOURS = ["#0060c0", "#c05000", "#208040", "#803090", "#606060"]
CHARTS = [("tok_s", "tokens a second, in total"), ("ttft_ms_p95", "time to first token, p95, ms")]
WIDTH, HEIGHT, LEFT, TOP = 300, 180, 60, 50


def read(paths):
    """Label -> rows, in order of clients."""
    curves = {}
    for path in paths:
        for line in Path(path).read_text().splitlines():
            if line.startswith("{"):
                row = json.loads(line)
                curves.setdefault(row["label"], []).append(row)
    return {label: sorted(rows, key=lambda row: row["clients"]) for label, rows in curves.items()}


def chart(curves, key, title, left):
    rows = [row for curve in curves.values() for row in curve]
    widest = max(row["clients"] for row in rows)
    highest = max(row[key] for row in rows) or 1
    out = [f'<text x="{left}" y="{TOP - 25}" font-weight="bold">{escape(title)}</text>',
           f'<path d="M{left} {TOP}v{HEIGHT}h{WIDTH}" stroke="#888" fill="none"/>']
    for share in (0.5, 1):
        y = TOP + HEIGHT * (1 - share)
        out.append(f'<path d="M{left} {y}h{WIDTH}" stroke="#ddd"/>')
        out.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{highest * share:.0f}</text>')
    for clients in sorted({row["clients"] for row in rows}):
        x = left + WIDTH * clients / widest
        out.append(f'<text x="{x:.1f}" y="{TOP + HEIGHT + 16}" text-anchor="middle">{clients}</text>')
    for (label, curve), colour in zip(curves.items(), COLOURS * len(curves)):
        points = [(left + WIDTH * row["clients"] / widest, TOP + HEIGHT * (1 - row[key] / highest))
                  for row in curve]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        out.append(f'<polyline points="{path}" stroke="{colour}" stroke-width="2" fill="none"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
    return out


def main():
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    curves = read(sys.argv[2:])
    if not curves:
        raise SystemExit("no lines of JSON in the files")
    total = TOP + HEIGHT + 40 + 18 * len(curves)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * (WIDTH + LEFT) + 40}" '
           f'height="{total}" font-family="sans-serif" font-size="12">']
    for index, (key, title) in enumerate(CHARTS):
        out += chart(curves, key, title, LEFT + index * (WIDTH + LEFT + 10))
    for index, (label, colour) in enumerate(zip(curves, COLOURS * len(curves))):
        y = TOP + HEIGHT + 40 + 18 * index
        out.append(f'<path d="M{LEFT} {y - 4}h20" stroke="{colour}" stroke-width="2"/>')
        out.append(f'<text x="{LEFT + 26}" y="{y}">{escape(label)}</text>')
    Path(sys.argv[1]).write_text("\n".join([*out, "</svg>"]) + "\n")


if __name__ == "__main__":
    main()
