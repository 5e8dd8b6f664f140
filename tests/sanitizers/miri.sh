#!/usr/bin/env bash
# The unit tests that miri can run: all that is pure, and the unsafe pieces that need no system call it does not know. It
# finds what no run on a real machine shows: reads out of bounds, of memory that was never written or is another's, data
# races. Property tests try MIRI_CASES (4) cases: each is some hundred times slower here.
#   miri.sh [PACKAGE...]     all of kvferry-inbox, kvferry-plan, kvferry-transfer unless some are named
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# Minutes that one package may take: the slowest takes about five on two cores, and one that hangs must end.
minutes=20

source "$here/toolchain.sh"
need_nightly miri miri

packages=("$@")
[ ${#packages[@]} -gt 0 ] || packages=(kvferry-inbox kvferry-plan kvferry-transfer)

# Property tests keep what has failed in a file.
export MIRIFLAGS="-Zmiri-disable-isolation ${MIRIFLAGS:-}"
export PROPTEST_CASES=${MIRI_CASES:-4}
cd "$root"
for package in "${packages[@]}"; do
    echo "miri: $package"
    timeout "${minutes}m" cargo +nightly miri test --quiet --target-dir target/miri -p "$package" --lib --tests
done
