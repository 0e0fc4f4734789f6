# shellcheck shell=sh
# Not on a foreign architecture: the setpriv of this machine runs there.
# Without root: what docs/production.md says about capabilities, with exactly those.
guest() {
    chmod 777 .
    # As Debian ships it: 3, where perf events ask for CAP_SYS_ADMIN.
    cat /proc/sys/kernel/perf_event_paranoid > paranoid
    with bpf,perfmon mtrace record -o shipped.mtrace -- gcgrowth -live-mib 4 -rounds 2 -grow-mib 2
    with sys_admin mtrace record -o admin.mtrace -- gcgrowth -live-mib 4 -rounds 2 -grow-mib 2
    echo 2 > /proc/sys/kernel/perf_event_paranoid
    with bpf,perfmon mtrace record -o launched.mtrace -- gcgrowth -live-mib 4 -rounds 2 -grow-mib 2
    with none faultloop 4 1000000 &
    record_running own bpf,perfmon
    faultloop 4 1000000 &
    record_running other bpf,perfmon,sys_ptrace
}

# record_running NAME CAPABILITIES: the faultloop that runs, for a while.
record_running() {
    wait_until 20 pidof faultloop
    with "$2" mtrace record -o "$1.mtrace" --duration 500ms --pid "$(pidof faultloop)"
    killall -9 faultloop
}

# with CAPABILITIES COMMAND...: as a user who has these and can get no others.
with() {
    _caps=-all
    [ "$1" = none ] || _caps=-all,+$(echo "$1" | sed 's/,/,+/g')
    shift
    # By its path: busybox has a setpriv of its own that can less.
    /vm/bin/setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs \
        --bounding-set="$_caps" --inh-caps="$_caps" --ambient-caps="$_caps" -- "$@"
}
host() {
    gc() { manifest "$1" '.probes[] | select(.name == "gc_events") | .status, .reason'; }
    expect_probes shipped.mtrace process_events=tp_btf memory_calls=tp_btf refusals=tp_btf io_calls=tp_btf off_cpu=tp_btf
    if [ "$(cat paranoid)" -gt 2 ]; then
        says "shipped.mtrace: perf events are refused, and what to do is said" \
            "$(manifest shipped.mtrace '.probes[] | select(.name == "faults") | .reason')" \
            'perf_event_paranoid to 2 or give CAP_SYS_ADMIN'
    fi
    expect_exact admin.mtrace
    expect_probes admin.mtrace faults=tp_btf+software_event gc_events=uprobe
    expect_exact launched.mtrace
    expect_probes launched.mtrace memory_calls=tp_btf faults=tp_btf+software_event
    says "launched.mtrace: why uprobes are refused is said" "$(gc launched.mtrace)" 'uprobes need CAP_SYS_ADMIN or root'
    for capture in own.mtrace other.mtrace; do
        expect_exact "$capture"
        expect_probes "$capture" memory_calls=tp_btf faults=tp_btf+software_event
        expect_replayed "$capture" end
        says "$capture: the toucher has its name" "$(report "$capture" '.faults.groups[0].toucher.function')" '^touch_pages$'
    done
}
