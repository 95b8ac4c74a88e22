#!/bin/sh
# Seconds to parse the library's headers beside <atomic>: the least of 9 runs each, taken in
# turns. Usage: parse_time.sh [compiler]. Status 1 if the umbrella header takes more than 0.8 of
# it, or one format with ageing.hpp more than 0.35.
set -eu
cxx=${1:-g++}
include=$(cd "$(dirname "$0")/../../include" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo '#include <ptebits/ptebits.hpp>' >"$work/all.cpp"
printf '#include <ptebits/ageing.hpp>\n#include <ptebits/formats/ept.hpp>\n' >"$work/one.cpp"
echo '#include <atomic>' >"$work/atomic.cpp"

now() { date +%s%N; }
best_all=999999999999
best_one=999999999999
best_atomic=999999999999
for _ in 1 2 3 4 5 6 7 8 9; do
    for what in all one atomic; do
        start=$(now)
        "$cxx" -std=c++20 -fsyntax-only -I "$include" "$work/$what.cpp"
        took=$(($(now) - start))
        eval "best=\$best_$what"
        [ "$took" -ge "$best" ] || eval "best_$what=$took"
    done
done
hundredths() { echo $(($1 * 100 / best_atomic)); }
echo "$cxx: <atomic> $((best_atomic / 1000000)) ms; <ptebits/ptebits.hpp> 0.$(printf %02d "$(hundredths "$best_all")") of it," \
    "one format with ageing.hpp 0.$(printf %02d "$(hundredths "$best_one")")"
[ "$(hundredths "$best_all")" -le 80 ] && [ "$(hundredths "$best_one")" -le 35 ]
