# shellcheck shell=sh
# memory.high: the program is throttled, nothing is killed; the cgroup's counters and its pressure show it.
guest() {
    mkdir /sys/fs/cgroup/high
    echo 8M > /sys/fs/cgroup/high/memory.high
    # The pause: the group is sampled before anything happens in it.
    mtrace record -o high.mtrace --sample-interval 100ms -- \
        sh -c 'echo $$ > /sys/fs/cgroup/high/cgroup.procs; sleep 1; exec faultloop 9 1'
    cat /sys/fs/cgroup/high/memory.events > events
}

# growth SOURCE KEY: largest less smallest value of one of the cgroup's numbers.
growth() {
    rows high.mtrace samples | jq -s "[.[] | select(.source == \"$1\" and .key == \"$2\") | .value] | max - min"
}

host() {
    expect_exact high.mtrace
    equal "why gc_events is absent" "$(manifest high.mtrace '.probes[] | select(.name == "gc_events") | .reason')" \
        'no Go binary among the targets'
    at_least "the kernel counted throttling" "$(sed -n 's/^high //p' events)" 1
    equal "memory.events high grew in the samples as the kernel counted" "$(growth cgroup_memory memory.events.high)" \
        "$(sed -n 's/^high //p' events)"
    equal "memory.events oom_kill grew in the samples" "$(growth cgroup_memory memory.events.oom_kill)" 0
    at_least "memory.pressure some grew in the samples, us" "$(growth cgroup_pressure memory.some.total_us)" 1
    equal "memory.high in the samples" \
        "$(rows high.mtrace samples | jq -s '[.[] | select(.key == "memory.high_bytes") | .value] | max')" 8388608
    at_least "faults in the report" "$(report high.mtrace '[.faults.kinds[].faults] | add')" 2304
}
