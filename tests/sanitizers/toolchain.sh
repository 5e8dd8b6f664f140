# For asan.sh and miri.sh: a nightly toolchain with the component that they need, or how to get it. Nothing is installed
# unasked: toolchains are big, and those who use them have chosen how they come.

# need_nightly COMPONENT WHY
need_nightly() {
    local component=$1 why=$2 name=${0##*/}
    if ! command -v rustup >/dev/null; then
        echo "${name%.sh}: rustup is missing, which $why needs; see https://rustup.rs" >&2
        exit 2
    fi
    if ! rustup component list --toolchain nightly --installed 2>/dev/null | grep -q "^$component"; then
        echo "${name%.sh}: $why needs the nightly toolchain with $component; to get it:" >&2
        echo "  rustup toolchain install nightly --profile minimal --component $component" >&2
        exit 2
    fi
}
