#!/bin/bash
# Fuzzes podd's parsers of what others have written, with libFuzzer and the stable compiler:
#
#   tests/fuzz.sh                     every target for ten seconds (FUZZ_SECONDS), one on each processor at a time
#   tests/fuzz.sh TARGET [SECONDS]    one target
#   tests/fuzz.sh TARGET FILE         one input again, as after a failure
#
# The targets are in fuzz/targets, their first inputs in fuzz/corpus; what else they find worth keeping is in target/fuzz.
# The last line is that of `cargo test`. As root, since some targets unpack layers; g++ is needed.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=contrib/lib/tools.sh
. contrib/lib/tools.sh

OUT=target/fuzz
EACH=${FUZZ_SECONDS:-10}
# An input that takes longer, or more memory than this, fails.
LIMITS=(-timeout=10 -rss_limit_mb=1024 -max_len=16384)

build() {
    # The crates and versions of the product, and libFuzzer.
    cp Cargo.lock fuzz/Cargo.lock
    RUSTC_WRAPPER=$PWD/fuzz/rustc.sh cargo build --quiet --manifest-path fuzz/Cargo.toml --target-dir target
}

targets() {
    basename -s .rs fuzz/targets/*.rs
}

# How many edges of the program a target has come through.
edges() {
    sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$OUT/$1.log" | tail -n 1
}

# Runs one target; its words go to a log. One that no longer gets anywhere has failed, too.
fuzz() {
    local found=$OUT/found/$1/ corpus=$OUT/corpus/$1
    mkdir -p "$found" "$corpus" "$SCRATCH/$1"
    TMPDIR=$SCRATCH/$1 timeout --kill-after 10 $((EACH + 60)) "target/debug/fuzz-$1" "${LIMITS[@]}" \
        -max_total_time="$EACH" -print_final_stats=1 -artifact_prefix="$found" \
        "$corpus" "fuzz/corpus/$1" >"$OUT/$1.log" 2>&1 &&
        [ "$(edges "$1")" -gt 20 ]
}

praise() {
    ok "$1: $(sed -n 's/^stat::number_of_executed_units: *//p' "$OUT/$1.log") inputs, $(edges "$1") edges"
}

# Shows the input on which a target failed, and how to run it again.
blame() {
    local input
    echo "FAILED: $1"
    tail -n 40 "$OUT/$1.log"
    input=$(sed -n 's/.*Test unit written to //p' "$OUT/$1.log" | tail -n 1)
    if [ -n "$input" ]; then
        echo "to run it again:"
        echo "base64 -d <<<'$(gzip -9 -n <"$input" | base64 -w 0)' | gunzip >input && tests/fuzz.sh $1 input"
    fi
}

# Runs the targets given, some at a time, and counts.
all() {
    local name passed=0 failed=0
    for name in "$@"; do
        while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do
            sleep 0.1
        done
        { fuzz "$name" && touch "$SCRATCH/$name.passed"; } &
    done
    wait
    for name in "$@"; do
        if [ -e "$SCRATCH/$name.passed" ]; then
            praise "$name"
            passed=$((passed + 1))
        else
            blame "$name"
            failed=$((failed + 1))
        fi
    done
    printf '\ntest result: %s. %d passed; %d failed; 0 ignored; 0 measured; 0 filtered out\n' \
        "$([ "$failed" -eq 0 ] && echo ok || echo FAILED)" "$passed" "$failed"
    [ "$failed" -eq 0 ]
}

need_root
need_rust
SCRATCH=$(mktemp -d /dev/shm/podd-fuzz-XXXXXX)
trap 'rm -rf "$SCRATCH"' EXIT
[ $# -eq 0 ] || [ -f "fuzz/targets/$1.rs" ] || die "unknown target $1; there are: $(targets | xargs)"
build
if [ $# -eq 0 ]; then
    mapfile -t names < <(targets)
    all "${names[@]}"
elif [ -f "${2:-}" ]; then
    TMPDIR=$SCRATCH "target/debug/fuzz-$1" "${LIMITS[@]}" "$2"
else
    EACH=${2:-$EACH}
    all "$1"
fi
