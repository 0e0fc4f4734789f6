# shellcheck shell=bash
# Debian's kernels without installing them. Sourced by scripts/vmtest after scripts/lib/setup.sh and foreign.sh.

MTRACE_VM_CACHE=$MTRACE_CACHE/vm

# kernel_image ARCHITECTURE PATTERN: prints the path of the newest vmlinuz whose package matches; fetches it at the first call.
# Serial ports, cgroups, BTF and BPF are built into Debian's kernels. Beside it lies brd.ko, the RAM disk that is swapped
# to.
kernel_image() {
    local arch=$1 pattern=$2 package version home
    package=$(_newest_package "$arch" "$pattern")
    if [ -z "$package" ]; then
        foreign_update "$arch"
        package=$(_newest_package "$arch" "$pattern")
    fi
    if [ -z "$package" ]; then
        setup_fail "no kernel package of $arch matches $pattern" "see: apt-cache search linux-image"
        return 1
    fi
    version=$(foreign_apt "$arch" apt-cache show --no-all-versions "$package" | sed -n 's/^Version: //p' | head -n 1)
    home=$MTRACE_VM_CACHE/kernels/${package}_${version//:/%}
    [ -e "$home/vmlinuz" ] && [ -e "$home/brd.ko" ] || _fetch_kernel "$arch" "$package" "$home" || return 1
    printf '%s\n' "$home/vmlinuz"
}

_newest_package() {
    foreign_apt "$1" apt-cache pkgnames linux-image- 2>/dev/null | grep -Ex "$2" | sort -V | tail -n 1
}

_fetch_kernel() {
    local arch=$1 package=$2 home=$3 work
    setup_say "fetching $package"
    mkdir -p "$home" && work=$(mktemp -d "$home/fetch.XXXXXX") || return 1
    if ! foreign_fetch "$arch" "$package" "$work" ||
        ! dpkg-deb --fsys-tarfile "$work"/*.deb | tar -x -C "$work" --wildcards './boot/vmlinuz-*' './lib/modules/*/drivers/block/brd.ko*'; then
        rm -rf "$work"
        setup_fail "could not fetch and unpack $package"
        return 1
    fi
    _unpack_module "$work"/lib/modules/*/kernel/drivers/block/brd.ko* >"$home/brd.ko"
    mv "$work"/boot/vmlinuz-* "$home/vmlinuz" && rm -rf "$work"
}

# Compressed or not, by the version.
_unpack_module() {
    case $1 in
        *.xz) xz -dc "$1" ;;
        *) cat "$1" ;;
    esac
}
