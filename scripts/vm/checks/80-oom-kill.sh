# shellcheck shell=sh
# memory.max: the kernel kills the only process of a cgroup; table, samples and verdict say so. A process that nobody
# records is killed as well: it is in the table, too.
guest() {
    for group in max other; do
        mkdir "/sys/fs/cgroup/$group"
        echo 16M > "/sys/fs/cgroup/$group/memory.max"
    done
    (
        wait_until 60 grep -q '"start_ns": [0-9]' oom.mtrace/manifest.json
        sh -c 'echo $$ > /sys/fs/cgroup/other/cgroup.procs; exec leak 64 1'
    ) &
    # The pause: the group is sampled before anything happens in it. Afterwards nobody is left in it.
    mtrace record -o oom.mtrace --sample-interval 100ms -- \
        sh -c 'echo $$ > /sys/fs/cgroup/max/cgroup.procs; sleep 2; exec leak 64 1 2'
    cat /sys/fs/cgroup/max/memory.events > events
    dmesg > messages
}

# in_message KEY: what the kernel's own message says about the target, kB.
in_message() {
    grep "Killed process $(manifest oom.mtrace '.targets[0].pid') " messages | grep -o "$1:[0-9]*" | cut -d: -f2
}

host() {
    expect_exact oom.mtrace
    equal "the kernel counted the kill" "$(sed -n 's/^oom_kill //p' events)" 1
    equal "the target's exit status" "$(manifest oom.mtrace '.targets[0].exit_status')" 9
    equal "memory.events oom_kill grew in the samples" \
        "$(rows oom.mtrace samples | jq -s '[.[] | select(.key == "memory.events.oom_kill") | .value] | max - min')" 1
    equal "kills recorded, in both groups" "$(rows oom.mtrace oom_kills | jq -s -r '[.[].cgroup] | sort | join(" ")')" '/max /other'
    rows oom.mtrace oom_kills | jq -s -c '.[] | select(.cgroup == "/max")' > victim
    equal "the victim" "$(jq .pid victim)" "$(manifest oom.mtrace '.targets[0].pid')"
    equal "whose memory was exhausted" "$(jq -r .scope victim)" memcg
    equal "its limit" "$(jq .limit_bytes victim)" 16777216
    for key in anon file shmem; do
        equal "its $key memory, kB, as the kernel's message says" "$(jq ".${key}_bytes / 1024" victim)" "$(in_message "$key-rss")"
    done
    says "the verdict names the kill" "$(report oom.mtrace .verdict.sentence)" 'OOM'
}
