#!/bin/sh
# Builds and runs the benchmark of whole tables with a compiler.
# Usage: tables.sh [compiler [options of bench_tables]]
set -eu
cxx=${1:-g++}
[ $# -eq 0 ] || shift
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Aligned functions: the contestants differ in nothing but their code.
contestant() {
    name=$1
    shift
    "$cxx" -std=c++20 -falign-functions=64 "$@" -DCONTESTANT="$name" -I "$here/../../include" \
        -c "$here/table_contestants.cpp" -o "$work/$name.o"
}
contestant plain -O2
contestant general -O2 -mgeneral-regs-only
contestant sse2 -O2
contestant avx2 -O3 -mavx2
contestant native -O3 -march=native
version=$("$cxx" --version | head -n 1)
"$cxx" -std=c++20 -O2 -DCOMPILER="\"$version\"" -I "$here/../../include" "$here/tables.cpp" "$work"/*.o -o "$work/bench_tables"
"$work/bench_tables" "$@"
