# shellcheck shell=sh
# A cgroup at its memory.max with swap: pages go out and come back, nothing is killed.
guest() {
    insmod "/vm/brd/$KERNEL.ko" rd_nr=1 rd_size=131072
    mkswap /dev/ram0 && swapon /dev/ram0
    mkdir /sys/fs/cgroup/swap
    echo 16M > /sys/fs/cgroup/swap/memory.max
    mtrace record -o swap.mtrace --sample-interval 100ms -- \
        sh -c 'echo $$ > /sys/fs/cgroup/swap/cgroup.procs; sleep 1; exec churn 24 3 keep'
    cat /sys/fs/cgroup/swap/memory.events > events
    cat /sys/fs/cgroup/swap/memory.pressure > pressure
    cat /sys/fs/cgroup/swap/memory.stat > stat
    swapoff /dev/ram0
}

host() {
    expect_exact swap.mtrace
    equal "nothing was killed" "$(sed -n 's/^oom_kill //p' events)" 0
    at_least "memory.events max" "$(sed -n 's/^max //p' events)" 1
    equal "memory.events max in the last sample" \
        "$(rows swap.mtrace samples | jq -s '[.[] | select(.key == "memory.events.max") | .value] | max')" \
        "$(sed -n 's/^max //p' events)"
    majors=$(faults swap.mtrace major)
    before=$(rows swap.mtrace samples | jq -s '[.[] | select(.source == "stat" and .key == "majflt")][0].value')
    equal "major faults recorded = counted by getrusage" "$majors" \
        "$(manifest swap.mtrace ".targets[0].rusage_major_faults - $before")"
    at_least "pages read back from swap" "$majors" 1000
    at_least "reclaims for the cgroup" "$(rows swap.mtrace reclaims | jq -s '[.[] | select(.kind == "memcg")] | length')" 1
    reclaimed=$(rows swap.mtrace reclaims | jq -s '[.[] | select(.kind == "memcg") | .dur] | add / 1000 | floor')
    at_least "memory.pressure some, us, no less than the reclaims ($reclaimed us, less 10 %)" \
        "$(sed -n 's/^some .*total=//p' pressure)" $((reclaimed * 9 / 10))
}
