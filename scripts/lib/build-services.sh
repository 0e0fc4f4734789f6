#!/usr/bin/env bash
# Builds the programs that the demo, the tests and the benches observe, and
# prints the folder that holds them:
#
#     coldstart  coldstart-stripped  coldstart-pie  coldstart-pie-stripped  client
#     faultloop  memcalls  churn  refused  filescan  wakeups  pool  thp
#
#     scripts/lib/build-services.sh [--go VERSION | --arch arm64]
#
# --go builds the Go programs with exactly that release (1.21.13, 1.27.3, ...),
# into a folder of its own; --arch builds everything for that architecture, into
# another one. Nothing is built when neither a source, nor this
# script, nor a compiler has changed since the last time.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

sources=$MTRACE_ROOT/testdata/services
output=$MTRACE_CACHE/services

go_version='' cc=gcc
case ${1:-} in
    '') ;;
    --go)
        go_version=${2:?--go needs a version}
        output=$output/go$go_version
        ;;
    --arch)
        [ "${2-}" = arm64 ] || setup_fail "no such architecture: ${2-}" "usage: $0 --arch arm64" || exit 2
        need_tools gcc-aarch64-linux-gnu libc6-dev-arm64-cross
        cc=aarch64-linux-gnu-gcc
        output=$output/arm64
        export GOARCH=arm64
        ;;
    *)
        setup_fail "unknown argument: $1" "usage: $0 [--go VERSION | --arch arm64]"
        exit 2
        ;;
esac

need_tools gcc libc6-dev
if [ -n "$go_version" ]; then
    bin=$(need_go_version "$go_version")
    PATH=$bin:$PATH
    export GOTOOLCHAIN=local GOPROXY=off GOFLAGS=-mod=mod GOWORK=off
else
    need_go
fi
# The build cache of this toolchain alone: nobody else's is grown or cleaned.
export GOCACHE=$MTRACE_CACHE/go-build
# Statically linked and without this machine's paths: the same bytes everywhere.
export CGO_ENABLED=0

content() {
    go version
    "$cc" --version | head -n 1
    (
        cd "$MTRACE_ROOT"
        find testdata/services scripts/lib/build-services.sh -type f \
            \( -name '*.go' -o -name 'go.mod' -o -name '*.c' -o -name '*.sh' \) -print0 |
            LC_ALL=C sort -z | xargs -0 sha256sum
    )
}

programs='coldstart coldstart-stripped coldstart-pie coldstart-pie-stripped client gcgrowth gomemory faultloop memcalls churn refused filescan forkcow leak maplock wakeups pool thp'
complete() {
    local program
    for program in $programs; do [ -x "$output/$program" ] || return 1; done
    [ "$(cat "$output/stamp" 2>/dev/null)" = "$stamp" ]
}

# build_go NAME MODULE FLAG...: the module's main package.
build_go() {
    local name=$1 module=$2 modfile=$work/$2.mod
    shift 2
    # An older release refuses a go.mod that asks for a newer one.
    cp "$sources/$module/go.mod" "$modfile"
    if [ -n "$go_version" ] && ! version_at_least "$go_version" "$MTRACE_GO_MINIMUM"; then
        sed -i "s/^go .*/go ${go_version%.*}/" "$modfile"
    fi
    (cd "$sources/$module" && go build -modfile="$modfile" -trimpath -buildvcs=false "$@" -o "$work/$name" .)
}

build_c() {
    "$cc" -std=gnu11 -O2 -g -fno-omit-frame-pointer -Wall -Wextra -Werror \
        -ffile-prefix-map="$sources"=. -pthread -o "$work/$1" "$sources/$1.c"
}

build_all() {
    setup_say "building the demo services into $output"
    build_go client client
    build_go coldstart coldstart
    build_go coldstart-stripped coldstart -ldflags='-s -w'
    build_go coldstart-pie coldstart -buildmode=pie
    build_go coldstart-pie-stripped coldstart -buildmode=pie -ldflags='-s -w'
    build_go gcgrowth gcgrowth
    build_go gomemory gomemory
    local program
    for program in faultloop memcalls churn refused filescan forkcow leak maplock wakeups pool thp; do build_c "$program"; done
    # Renamed into place: a copy that is running stays as it is.
    for program in $programs; do mv -f "$work/$program" "$output/$program"; done
    printf '%s\n' "$stamp" >"$output/stamp"
}

mkdir -p "$output"
stamp=$(content | sha256sum)
if ! complete; then
    exec 9>"$output/lock"
    flock 9
    if ! complete; then
        work=$(mktemp -d "$output/build.XXXXXX")
        trap 'rm -rf "$work"' EXIT
        build_all >&2
    fi
fi
printf '%s\n' "$output"
