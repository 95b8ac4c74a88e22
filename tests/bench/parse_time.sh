#!/bin/sh
# Seconds to parse the library's umbrella header beside <atomic>: the least of 9 runs each,
# taken in turns. Usage: parse_time.sh [compiler]. Status 1 if the library takes longer.
set -eu
cxx=${1:-g++}
include=$(cd "$(dirname "$0")/../../include" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo '#include <ptebits/ptebits.hpp>' >"$work/library.cpp"
echo '#include <atomic>' >"$work/atomic.cpp"

now() { date +%s%N; }
best_library=999999999999
best_atomic=999999999999
for _ in 1 2 3 4 5 6 7 8 9; do
    for what in library atomic; do
        start=$(now)
        "$cxx" -std=c++20 -fsyntax-only -I "$include" "$work/$what.cpp"
        took=$(($(now) - start))
        eval "best=\$best_$what"
        [ "$took" -ge "$best" ] || eval "best_$what=$took"
    done
done
echo "$cxx: <ptebits/ptebits.hpp> $((best_library / 1000000)) ms, <atomic> $((best_atomic / 1000000)) ms"
[ "$best_library" -lt "$best_atomic" ]
