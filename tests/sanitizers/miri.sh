#!/usr/bin/env bash
# The tests that miri can run: what orders, leases, bounds, plans and messages are decided by, with property tests of few
# cases. It finds what a run on a real machine does not show: reads out of bounds, of memory that was never written or is
# another's, data races, overflowing arithmetic on pointers. What maps memory or asks the system for more than a clock is
# beyond it; asan.sh runs that.
#   miri.sh [PACKAGE...]     all of kvferry-inbox, kvferry-plan, kvferry-transfer unless some are named
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# For one package: the slowest takes about five of a core to itself. What hangs must end.
minutes=30

source "$here/toolchain.sh"
need_nightly miri miri

# Names of tests in kvferry-transfer: modules that are pure, or whose unsafe code works on plain memory.
pure=(lease:: segment:: ids:: error:: memory::region:: memory::registry:: fabric::transfer:: common::header:: common::ranges::
    common::timers:: ::wire:: ::frame:: ::message:: ::metadata:: ::cut:: ::names:: raw::ops:: tcp::hello:: tcp::hmac::
    tcp::inbuf:: tcp::numbers:: tcp::turns::)

packages=("$@")
[ ${#packages[@]} -gt 0 ] || packages=(kvferry-inbox kvferry-plan kvferry-transfer)

# Isolated tests have no clock, and no file for property tests to keep what has failed.
export MIRIFLAGS="-Zmiri-disable-isolation${MIRIFLAGS:+ $MIRIFLAGS}"
# Each case takes some hundred times longer than elsewhere.
export PROPTEST_CASES=${PROPTEST_CASES:-2}

cd "$root"
for package in "${packages[@]}"; do
    echo "miri: $package"
    case $package in
    # tests/models.rs plans for models of real size, which takes hours here.
    kvferry-plan) what=(--lib --test refusals --test naive_copy) ;;
    kvferry-transfer) what=(--lib -- "${pure[@]}") ;;
    *) what=(--lib) ;;
    esac
    timeout "${minutes}m" cargo +nightly miri test --quiet --target-dir target/miri -p "$package" "${what[@]}"
done
