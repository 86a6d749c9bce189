#!/usr/bin/env bash
# The kernels' tests for AArch64 on an x86-64 machine: with Debian's cross compiler and qemu, which
# are unpacked below target/aarch64 and not installed. Arguments go to the test program. Exits with 77
# where these packages cannot be had.
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"
target="${CARGO_TARGET_DIR:-$root/target}"
mkdir -p "$target"
work="$(cd "$target" && pwd)/aarch64"
triple=aarch64-unknown-linux-gnu
cross=aarch64-linux-gnu
mkdir -p "$work"/{lists/partial,cache/archives/partial,sources,debs}

# Package lists of our own, with both architectures; the machine's stay as they are.
cp /etc/apt/sources.list.d/debian.sources "$work/sources/" 2>/dev/null || true
cat >"$work/apt.conf" <<EOF
Dir::State::lists "$work/lists";
Dir::Cache "$work/cache";
Dir::Etc::sourceparts "$work/sources";
APT::Architectures { "amd64"; "arm64"; };
APT::Sandbox::User "";
EOF
export APT_CONFIG="$work/apt.conf"

# The first package that $1 depends on whose name starts with $2.
needs() { apt-cache depends "$1" | grep -oE "$2[0-9][0-9.]*" | head -n 1; }

fetch() {
    apt-get update -qq
    std="$(needs libstd-rust-web-dev:arm64 libstd-rust-web-)"
    gcc="$(needs gcc-$cross gcc-)"
    gcc="${gcc#gcc-}"
    cd "$work/debs"
    apt-get download -qq rustc-web:amd64 libstd-rust-web-dev:{amd64,arm64} "$std":{amd64,arm64} \
        "$(needs "$std:amd64" libllvm):amd64" "gcc-$gcc-$cross:amd64" binutils-$cross:amd64 \
        libc6-arm64-cross libc6-dev-arm64-cross "libgcc-$gcc-dev-arm64-cross" \
        libgcc-s1-arm64-cross qemu-user-static:amd64
    for package in *.deb; do dpkg -x "$package" "$work/tree"; done
    rm -f ./*.deb
    touch "$work/unpacked"
}
# In the background, where a failure ends the function and not the script: 77 says that there are no tools.
if ! [[ -e "$work/unpacked" ]]; then
    fetch &
    wait $! || { echo "the tools for AArch64 cannot be had here" && exit 77; }
fi
cd "$root"
gcc="$(basename "$work"/tree/usr/bin/$cross-gcc-[0-9]*)"
libraries="$work/tree/usr/lib/x86_64-linux-gnu"

cat >"$work/rustc" <<EOF
#!/bin/sh
LD_LIBRARY_PATH="$libraries" exec "$work/tree/usr/bin/rustc" --sysroot "$work/tree/usr" "\$@"
EOF
cat >"$work/$cross-gcc" <<EOF
#!/bin/sh
usr="$work/tree/usr"
LD_LIBRARY_PATH="$libraries" exec "\$usr/bin/$gcc" --sysroot="$work/tree" \\
    -B"\$usr/lib/gcc-cross/$cross/${gcc##*-}" -B"\$usr/bin/$cross-" \\
    -B"\$usr/$cross/lib" -L"\$usr/$cross/lib" "\$@"
EOF
chmod +x "$work/rustc" "$work/$cross-gcc"

export RUSTC="$work/rustc"
export CARGO_TARGET_DIR="$work/target"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER="$work/$cross-gcc"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$work/tree/usr/bin/qemu-aarch64-static -cpu max -L $work/tree/usr/$cross"
cargo test --locked -p kolosal-kernels --lib --target "$triple" \
    --config 'profile.dev.package.kolosal-kernels.opt-level=1' -- "$@"
