#!/usr/bin/env bash
# Fuzzes each target for FUZZ_SECONDS (60), guided by coverage, from the committed corpus and what earlier runs found.
#   run.sh [TARGET...]     all targets unless some are named
# Works on a stable toolchain: the instrumentation that libFuzzer reads is switched on in the compiler's back end.
# Exit code 1 if an input breaks a property; it is kept, and how to run it again is printed.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
seconds=${FUZZ_SECONDS:-60}
# Everything that is made stays here: the build, inputs found on the way, and inputs that broke something.
out=$root/target/fuzz
# An input that takes longer than this is a finding too; ordinary ones take less than a millisecond.
slow=10
# Resident memory that no input of a few kilobytes can need, MiB.
memory=2048

case $seconds in
'' | *[!0-9]* | 0) echo "fuzz: FUZZ_SECONDS must be a number of seconds, not '$seconds'" >&2 && exit 2 ;;
esac

mapfile -t known < <(find "$here/targets/src" -name '*.rs' -exec basename {} .rs \; | sort)
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=("${known[@]}")
for target in "${targets[@]}"; do
    [ -f "$here/targets/src/$target.rs" ] || { echo "fuzz: no target '$target'; known: ${known[*]}" >&2 && exit 2; }
done

# libFuzzer comes as C++ source.
command -v c++ >/dev/null || bash "$root/tests/setup/setup.sh" fuzz

# Named, so that the flags below stay away from build scripts, which no fuzzer runs.
triple=$(rustc -vV | sed -n 's/^host: //p')
flags=(
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
    # Small units keep a function's counters together with the function.
    -Ccodegen-units=1
)
echo "fuzz: building in $out/build"
RUSTFLAGS="${flags[*]}" cargo build --quiet --manifest-path "$here/targets/Cargo.toml" \
    --target "$triple" --target-dir "$out/build"

failed=0
for target in "${targets[@]}"; do
    found=$out/corpus/$target
    crashes=$out/crashes
    log=$out/$target.log
    mkdir -p "$found" "$crashes"
    seed=${KVFERRY_SEED:-$((RANDOM << 15 | RANDOM))}
    echo "fuzz: $target for $seconds s, KVFERRY_SEED=$seed"
    if "$out/build/$triple/debug/$target" "$found" "$here/corpus/$target" -dict="$here/dictionaries/$target.dict" \
        -seed="$seed" -max_total_time="$seconds" -timeout="$slow" -rss_limit_mb="$memory" -max_len=4096 \
        -artifact_prefix="$crashes/$target-" -print_final_stats=1 >"$log" 2>&1; then
        grep -E '^(stat::number_of_executed_units|stat::average_exec_per_sec|stat::new_units_added)' "$log" |
            sed -E 's/^stat::([a-z_]+): */  \1 /'
        grep -E '^#[0-9]+.*cov: ' "$log" | tail -n 1 | sed -E 's/.*(cov: [0-9]+ ft: [0-9]+ corp: [^ ]+).*/  \1/'
        continue
    fi
    failed=1
    tail -n 40 "$log" >&2
    input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
    printf '\nfuzz: %s: a property does not hold\n  input:  %s\n  log:    %s\n  again:  KVFERRY_FUZZ_INPUT=%s cargo test -p kvferry-fuzz %s::\n\n' \
        "$target" "$input" "$log" "$input" "$target" >&2
done
exit $failed
