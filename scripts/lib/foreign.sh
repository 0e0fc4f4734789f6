# shellcheck shell=bash
# Debian packages without installing them, also of another architecture: for that apt reads lists of its own, so neither
# root is needed nor does dpkg's list of architectures or anything else of this machine change. Sourced after
# scripts/lib/setup.sh.

MTRACE_FOREIGN=$MTRACE_CACHE/foreign

is_own_architecture() {
    [ "$1" = "$(dpkg --print-architecture)" ]
}

# foreign_apt ARCHITECTURE apt-get|apt-cache ARGUMENT...
foreign_apt() {
    local arch=$1 tool=$2 home=$MTRACE_FOREIGN/$1/apt options=()
    shift 2
    if ! is_own_architecture "$arch"; then
        mkdir -p "$home/lists/partial" "$home/archives/partial"
        # An empty status: what is installed here is of no interest.
        options=(-o APT::Architecture="$arch" -o APT::Architectures="$arch" -o Dir::State::lists="$home/lists"
            -o Dir::Cache="$home" -o Dir::State::status=/dev/null)
    fi
    # The sandbox user of apt may not write below a private home; signatures are checked all the same.
    "$tool" ${options[@]+"${options[@]}"} -o APT::Sandbox::User=root "$@"
}

_foreign_lists_fresh=

# foreign_update ARCHITECTURE: fetches the lists, once in a run.
foreign_update() {
    [ -z "$_foreign_lists_fresh" ] || return 0
    setup_say "fetching Debian's package lists for $1"
    if is_own_architecture "$1"; then
        as_root apt-get -qq -o DPkg::Lock::Timeout=300 update >&2
    else
        foreign_apt "$1" apt-get -qq update >&2
    fi || setup_say "apt-get update failed; trying with the package lists at hand"
    _foreign_lists_fresh=1
}

# foreign_fetch ARCHITECTURE PACKAGE FOLDER: the package file, into the folder.
foreign_fetch() {
    (cd "$3" && foreign_apt "$1" apt-get -qq download "$2" >&2) && return 0
    # The lists are older than the archive, or not there yet.
    foreign_update "$1"
    (cd "$3" && foreign_apt "$1" apt-get -qq download "$2" >&2) ||
        setup_fail "could not fetch $2 for $1" "see: apt-cache policy $2:$1 (after dpkg --add-architecture $1)"
}

# need_foreign ARCHITECTURE PACKAGE...: unpacks those that are missing, and prints the folder that holds their files.
need_foreign() {
    local arch=$1 root=$MTRACE_FOREIGN/$1/root package work
    shift
    mkdir -p "$root/.unpacked" || return 1
    for package in "$@"; do
        [ ! -e "$root/.unpacked/$package" ] || continue
        setup_say "fetching $package for $arch"
        work=$(mktemp -d "$MTRACE_FOREIGN/$arch/fetch.XXXXXX") || return 1
        if ! foreign_fetch "$arch" "$package" "$work" || ! dpkg-deb -x "$work"/*.deb "$root"; then
            rm -rf "$work"
            return 1
        fi
        rm -rf "$work"
        touch "$root/.unpacked/$package"
    done
    printf '%s\n' "$root"
}
