#!/usr/bin/env bash
# Runs every coverage-guided fuzzer in fuzz/coverage, FUZZ_SECONDS in all, and prints for each the edges
# that its inputs reach. TARGETS="spdy quantity" runs only these. An input that crashes one is kept in
# build/fuzz/TARGET and makes this fail: it belongs into the corpus of its parser (CRATE/corpus/…), whose
# files every test run tries.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${FUZZ_SECONDS:-3600}
project=fuzz/coverage
out=$PWD/build/fuzz
# libFuzzer is C++.
command -v g++ >/dev/null || apt-get install -y -qq --no-install-recommends g++ >/dev/null
command -v cargo-fuzz >/dev/null || cargo install --locked --quiet cargo-fuzz

# target → the committed corpus that it starts from
corpus_of() {
    awk -v target="$1" '$1 == target { print $2 }' $project/corpora.txt
}

all=$(awk '!/^#/ && NF { print $1 }' $project/corpora.txt)
targets=${TARGETS:-$all}
count=$(wc -w <<<"$targets")
each=$((seconds / count))
[ "$each" -gt 0 ] || each=1
# The fuzzers are built by the stable compiler: coverage needs one of its unstable flags.
export RUSTC_BOOTSTRAP=1
cargo fuzz build --fuzz-dir $project --sanitizer none
failed=()
printf '%-20s %10s %10s %12s %8s %8s\n' target edges of executions inputs crashes
for target in $targets; do
    mkdir -p "$out/$target/found" "$out/$target/crashes"
    log=$out/$target/log
    status=0
    cargo fuzz run --fuzz-dir $project --sanitizer none "$target" \
        "$out/$target/found" "$(corpus_of "$target")" -- \
        -max_total_time="$each" -timeout=10 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 \
        -artifact_prefix="$out/$target/crashes/" >"$log" 2>&1 || status=$?
    edges=$(grep -oE 'cov: [0-9]+' "$log" | tail -n 1 | cut -d' ' -f2 || true)
    of=$(sed -nE 's/.*\(([0-9]+) inline 8-bit counters\).*/\1/p' "$log" | head -n 1)
    runs=$(sed -nE 's/^stat::number_of_executed_units: *([0-9]+)/\1/p' "$log")
    inputs=$(find "$out/$target/found" -type f | wc -l)
    crashes=$(find "$out/$target/crashes" -type f | wc -l)
    printf '%-20s %10s %10s %12s %8s %8s\n' \
        "$target" "${edges:--}" "${of:--}" "${runs:--}" "$inputs" "$crashes"
    [ "$status" = 0 ] || failed+=("$target")
done
if [ ${#failed[@]} -gt 0 ]; then
    printf 'inputs that fail are in build/fuzz/{%s}/crashes\n' "$(IFS=,; echo "${failed[*]}")" >&2
    exit 1
fi
