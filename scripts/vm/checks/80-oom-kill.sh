# shellcheck shell=sh
# memory.max: the kernel kills the only process of a cgroup; the samples and the verdict say so.
guest() {
    mkdir /sys/fs/cgroup/max
    echo 16M > /sys/fs/cgroup/max/memory.max
    # The pause: the group is sampled before anything happens in it. Afterwards nobody is left in it.
    mtrace record -o oom.mtrace --sample-interval 100ms -- \
        sh -c 'echo $$ > /sys/fs/cgroup/max/cgroup.procs; sleep 1; exec faultloop 64 1'
    cat /sys/fs/cgroup/max/memory.events > events
}

host() {
    expect_exact oom.mtrace
    equal "the kernel counted the kill" "$(sed -n 's/^oom_kill //p' events)" 1
    equal "the target's exit status" "$(manifest oom.mtrace '.targets[0].exit_status')" 9
    equal "memory.events oom_kill grew in the samples" \
        "$(rows oom.mtrace samples | jq -s '[.[] | select(.key == "memory.events.oom_kill") | .value] | max - min')" 1
    says "the verdict names the kill" "$(report oom.mtrace .verdict.sentence)" \
        'was killed by SIGKILL: its cgroup counted an OOM kill'
}
