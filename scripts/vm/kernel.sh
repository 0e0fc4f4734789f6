# shellcheck shell=bash
# Debian's kernels without installing them. Sourced by scripts/vmtest after scripts/lib/setup.sh.

MTRACE_VM_CACHE=$MTRACE_CACHE/vm

# kernel_image PATTERN: prints the path of the newest vmlinuz whose package matches; fetches it at the first call.
# Serial ports, cgroups, BTF and BPF are built into Debian's kernels. Beside it lies brd.ko, the RAM disk that is swapped
# to.
kernel_image() {
    local package version home
    package=$(_newest_package "$1")
    if [ -z "$package" ]; then
        setup_say "no package matches $1; looking again with fresh package lists"
        as_root apt-get -qq -o DPkg::Lock::Timeout=300 update >&2 || true
        package=$(_newest_package "$1")
    fi
    if [ -z "$package" ]; then
        setup_fail "no kernel package matches $1" "see: apt-cache search linux-image"
        return 1
    fi
    version=$(apt-cache show --no-all-versions "$package" | sed -n 's/^Version: //p' | head -n 1)
    home=$MTRACE_VM_CACHE/kernels/${package}_${version//:/%}
    [ -e "$home/vmlinuz" ] && [ -e "$home/brd.ko" ] || _fetch_kernel "$package" "$home" || return 1
    printf '%s\n' "$home/vmlinuz"
}

_newest_package() {
    apt-cache pkgnames linux-image- 2>/dev/null | grep -Ex "$1" | sort -V | tail -n 1
}

_fetch_kernel() {
    local package=$1 home=$2 work
    setup_say "fetching $package"
    mkdir -p "$home" && work=$(mktemp -d "$home/fetch.XXXXXX") || return 1
    # The sandbox user of apt may not write below a private home; the package's signature is checked all the same.
    if ! (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "$package" >&2) ||
        ! dpkg-deb --fsys-tarfile "$work"/*.deb | tar -x -C "$work" --wildcards './boot/vmlinuz-*' './lib/modules/*/drivers/block/brd.ko*'; then
        rm -rf "$work"
        setup_fail "could not fetch $package" "try: apt-get download $package"
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
