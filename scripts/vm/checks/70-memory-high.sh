# shellcheck shell=sh
# memory.high: the program is throttled, nothing is killed; the cgroup's counters and its pressure show it, and every
# sleep is a row, in each way in which the kernel lets it be seen.
guest() {
    without=
    ways | while read -r variant; do
        name=$(echo "$variant" | tr -d ' ')
        mkdir "/sys/fs/cgroup/$name"
        echo 8M > "/sys/fs/cgroup/$name/memory.high"
        # The pause: the group is sampled before anything happens in it.
        # shellcheck disable=SC2086 # a list of words
        MTRACE_VARIANTS="throttles=$variant" mtrace record -o "$name.mtrace" --sample-interval 100ms $without -- \
            sh -c 'echo $$ > "$0"; sleep 1; exec leak 3 10 6' "/sys/fs/cgroup/$name/cgroup.procs" < /dev/null
        cat "/sys/fs/cgroup/$name/memory.events" > "$name.events"
        cat "/sys/fs/cgroup/$name/memory.pressure" > "$name.pressure"
        # What the other variants add is the throttles; the rest costs half a minute each on an emulated CPU.
        without='--without faults --without memory_calls --without io_calls'
    done
    # The control: the same below the limit.
    mkdir /sys/fs/cgroup/roomy
    echo 64M > /sys/fs/cgroup/roomy/memory.high
    mtrace record -o roomy.mtrace -- sh -c 'echo $$ > /sys/fs/cgroup/roomy/cgroup.procs; exec leak 3 10 6'
}

# The variants that this kernel allows, best first.
ways() {
    ! has_fentry || echo fentry
    echo kprobe
    echo 'off-CPU stack'
}

# growth CAPTURE SOURCE KEY: largest less smallest value of one of the cgroup's numbers.
growth() {
    rows "$1" samples | jq -s "[.[] | select(.source == \"$2\" and .key == \"$3\") | .value] | max - min"
}

host() {
    equal "below memory.high: sleeps recorded" "$(rows roomy.mtrace throttles | wc -l)" 0
    equal "below memory.high: findings" "$(report roomy.mtrace '[.findings[].code] | index("memory-high-throttling")')" null
    ways | while read -r variant; do one "$(echo "$variant" | tr -d ' ')" "$variant"; done
    says "the verdict is about memory.high" "$(report "$(ways | head -n 1).mtrace" .verdict.sentence)" 'memory\.high'
}

# one NAME VARIANT: what was recorded that way.
one() {
    capture=$1.mtrace
    expect_exact "$capture"
    expect_probes "$capture" "throttles=$2"
    equal "$1: why gc_events is absent" "$(manifest "$capture" '.probes[] | select(.name == "gc_events") | .reason')" \
        'no Go binary among the targets'
    high=$(sed -n 's/^high //p' "$1.events")
    equal "$1: memory.events high grew in the samples as the kernel counted" \
        "$(growth "$capture" cgroup_memory memory.events.high)" "$high"
    equal "$1: memory.events oom_kill grew in the samples" "$(growth "$capture" cgroup_memory memory.events.oom_kill)" 0
    equal "$1: memory.high in the samples" \
        "$(rows "$capture" samples | jq -s '[.[] | select(.key == "memory.high_bytes") | .value] | max')" 8388608
    sleeps=$(rows "$capture" throttles | jq -s '[.[] | select(.kind == "memory_high")] | length')
    at_least "$1: sleeps recorded" "$sleeps" 1
    # The kernel counts every attempt to reclaim, and makes at most 16 of them before a sleep.
    at_least "$1: memory.events high, no less than the sleeps" "$high" "$sleeps"
    # One thread: the time for which it stalled is the time for which the group did. Both are clocks of the same machine.
    stalled=$(sed -n 's/^some .*total=//p' "$1.pressure")
    slept=$(rows "$capture" throttles | jq -s '[.[] | select(.kind == "memory_high") | .dur] | add / 1000 | floor')
    at_least "$1: memory.pressure some, us, of which the rows hold at least 90 % ($slept us)" $((slept * 100)) $((stalled * 90))
    at_least "$1: and not more than 110 % ($stalled us)" $((stalled * 110)) $((slept * 100))
    says "$1: whose call it was has a name" "$(rows "$capture" symbols | jq -r .function)" '^remember_request$'
}
