#!/usr/bin/env python3
"""Proves that in the optimised kernels no processor instruction hides behind a call.

A closure does not take part in its function's `#[target_feature]` once an adapter such as
`array::from_fn` calls it: the intrinsics in it then stay functions, which are called, with vectors in
memory, for every few bytes. Results are right and ten times late, so no other test sees it.

Builds the library of the kernels as a release does and looks at its machine code; with arguments,
looks at those files instead, for instance target/release/kolosal. CARGO_BUILD_TARGET works as usual.
Set NM and OBJDUMP for another architecture's.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What the standard library asks of the processor when it detects features.
DETECTION = re.compile(r"::(_xgetbv|__cpuid(_count)?|has_cpuid)$")
# Functions that are compiled for a tier: everything of theirs must be in them.
TIER = re.compile(r"::run_avx\w+")
HIDDEN = re.compile(r"^core::core_arch::|^<?core::array::|\{\{closure\}\}|^<kolosal_kernels::(simd|linear)::\w+::\w+(<.*>)? as ")


def out(*command, **options):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options).stdout


def build():
    """The kernels' library. Without optimisation at link time it holds machine code."""
    command = ["cargo", "rustc", "--locked", "-p", "kolosal-kernels", "--lib", "--release"]
    command += ["--config", "profile.release.lto=false", "--message-format=json-render-diagnostics"]
    messages = map(json.loads, out(*command, cwd=ROOT).splitlines())
    artifacts = [m for m in messages if m.get("reason") == "compiler-artifact"]
    files = [f for m in artifacts if m["target"]["name"] == "kolosal_kernels" for f in m["filenames"]]
    return [f for f in files if f.endswith(".rlib")]


def functions(path):
    """Names of the functions that a file defines."""
    lines = out(os.environ.get("NM", "nm"), "-C", "--defined-only", path, stderr=subprocess.DEVNULL)
    return [m[1] for m in re.finditer(r"^[0-9a-f]+ [tTwW] (.*)$", lines, re.M)]


def calls(path):
    """Pairs of a tier's function and the function that it calls."""
    listing = out(os.environ.get("OBJDUMP", "objdump"), "-dCr", "--no-show-raw-insn", path)
    caller = None
    for line in listing.splitlines():
        if start := re.match(r"^[0-9a-f]+ <(.*)>:$", line):
            caller = start[1] if TIER.search(start[1]) else None
        elif caller and (call := re.search(r"\bcall\s.*<(.*)>|R_X86_64_(?:PLT32|GOTPCREL\w*)\s+(.*)", line)):
            yield caller, call[1] or call[2]


def check(path):
    names = functions(path)
    faults = [f"{name} is a function" for name in names
              if name.startswith("core::core_arch::") and not DETECTION.search(name)]
    tiers = {name for name in names if TIER.search(name)}
    found = sorted({f"{callee}\n    is called by {caller}" for caller, callee in calls(path) if HIDDEN.search(callee)})
    print(f"{path}: {len(names)} functions, {len(tiers)} for a tier, {len(faults) + len(found)} faults")
    if not any("kolosal_kernels" in name for name in names):
        faults.append(f"{path} holds no kernels, or no symbols")
    for fault in faults + found:
        print("  " + fault)
    return not faults + found


def main():
    files = sys.argv[1:] or build()
    # A list: every file is looked at.
    sys.exit(0 if files and all([check(file) for file in files]) else 1)


if __name__ == "__main__":
    main()
