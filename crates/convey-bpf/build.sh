#!/bin/sh
# Builds the kernel programs into objects/ (or into the folder given). Needs clang-16 and libbpf's headers
# (Debian: clang-16, llvm-16, libbpf-dev).
set -eu
cd "$(dirname "$0")"
out=${1:-objects}
clang=${CLANG:-clang-16}
strip=${LLVM_STRIP:-llvm-strip-16}
mkdir -p "$out"
# Debian keeps <asm/types.h> in a folder that -target bpf does not look into.
asm=/usr/include/$(uname -m)-linux-gnu
for source in guard af_xdp pass dsr_egress engine/tc engine/xdp engine/csum_probe bench/wrapper bench/reference bench/generator; do
    object=$out/$(basename "$source").o
    "$clang" -O2 -g -target bpf -mcpu=v3 -Wall -Wextra -Werror -isystem "$asm" \
        -ffile-prefix-map="$PWD"=. -fdebug-compilation-dir=. \
        -c "src/$source.c" -o "$object"
    # DWARF goes, BTF stays.
    "$strip" -g "$object"
done
