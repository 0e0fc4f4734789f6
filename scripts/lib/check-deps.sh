#!/usr/bin/env bash
# The recorder has no polars, the analyzer no libbpf, formats neither; licences and sources are the allowed ones.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$ROOT"
# shellcheck source=scripts/lib/setup.sh
source scripts/lib/setup.sh
need_rust

# refuse PATTERN CARGO_TREE_ARGS...: fails if a crate matching the pattern is in the tree.
refuse() {
    local pattern=$1 tree
    shift
    tree=$(cargo tree --locked --prefix none -e normal,build "$@")
    if grep -E "^($pattern) " <<< "$tree"; then
        setup_fail "cargo tree $*: must not contain $pattern"
    fi
}

refuse 'polars.*|inferno|mtrace-analyzer' -p mtrace --no-default-features --features record
refuse 'libbpf.*|blazesym|nix|mtrace-recorder' -p mtrace --no-default-features --features analyze
refuse 'libbpf.*|polars.*' -p mtrace-formats

# Licences and sources; the advisory database is on a host that a closed network does not reach.
tools=$MTRACE_CACHE/tools
if ! command -v cargo-deny > /dev/null && [ ! -x "$tools/bin/cargo-deny" ]; then
    setup_say "installing cargo-deny"
    env -u CARGO_TARGET_DIR cargo install --quiet --locked --root "$tools" cargo-deny
fi
PATH=$tools/bin:$PATH cargo-deny --log-level error check bans licenses sources
