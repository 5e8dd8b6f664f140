#!/usr/bin/env bash
# The conformance suite of the fabrics with AddressSanitizer and LeakSanitizer in every process of it, for ASAN_FABRICS
# ("shm tcp"). A report of any process is a failure, also of one that a case kills or whose end nobody looks at.
#   asan.sh [WORD...]     only cases whose names hold all words
# The standard library is not rebuilt: what it does to memory of ours goes through functions that are watched anyway.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
fabrics=${ASAN_FABRICS:-shm tcp}
# Everything that is made stays here: the build, and reports.
out=$root/target/asan
reports=$out/reports

source "$here/toolchain.sh"
need_nightly rustc "AddressSanitizer"

# Named, so that the flags stay away from build scripts, which no test runs.
triple=$(rustc +nightly -vV | sed -n 's/^host: //p')
echo "asan: building in $out"
suite=$(RUSTFLAGS="-Zsanitizer=address -Cforce-frame-pointers=yes" cargo +nightly test --no-run --message-format=json-render-diagnostics \
    --manifest-path "$root/Cargo.toml" --target "$triple" --target-dir "$out" -p kvferry-transfer --test conformance |
    sed -n 's/.*"executable":"\([^"]*\/conformance-[^"]*\)".*/\1/p' | tail -n 1)

rm -rf "$reports"
mkdir -p "$reports"
export ASAN_OPTIONS="log_path=$reports/report:detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}"

failed=0
for fabric in $fabrics; do
    log=$out/$fabric.log
    echo "asan: $fabric"
    # Where the suite's package is, as with cargo.
    if (cd "$root/kvtransfer" && "$suite" "$fabric" "$@") >"$log" 2>&1; then
        grep '^test result' "$log"
    else
        failed=1
        tail -n 40 "$log" >&2
    fi
done

for report in "$reports"/*; do
    [ -e "$report" ] || continue
    failed=1
    echo "asan: a process reports ($report):" >&2
    head -n 60 "$report" >&2
done
[ $failed -eq 0 ] && echo "asan: nothing found"
exit $failed
