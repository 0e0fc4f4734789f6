# shellcheck shell=sh
# What is known of the machine, for both parts of a check. ARCH (Debian's name) and KERNEL (of scripts/vm/kernels) come
# from scripts/vmtest.

# True if BPF programs can be attached to functions of the kernel: on arm64 since 6.4.
has_fentry() {
    [ "$ARCH" != arm64 ] || [ "$KERNEL" != 6.1 ]
}

# The best variant of the probe of faults, as expect_probes wants it.
faults_variant() {
    if [ "$ARCH" = amd64 ]; then
        echo tp_btf+software_event
    elif has_fentry; then
        echo fentry+software_event
    else
        echo 'kprobe+software_event (partial)'
    fi
}
