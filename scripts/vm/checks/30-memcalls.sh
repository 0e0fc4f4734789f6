# shellcheck shell=sh
# Memory calls: as many of each as the program counted, by thread and errno; and they explain /proc/PID/maps at the end.
guest() {
    mkfifo /tmp/held-open
    sleep 1000 > /tmp/held-open &
    mtrace record -o memcalls.mtrace -- memcalls < /tmp/held-open > said &
    recorder=$!
    wait_until 60 grep -q actors said
    kill -INT "$recorder"
    wait "$recorder"
}

# Lines of "role call errno count", from the program's words and from the rows between its markers.
counts_said() {
    jq -r '.actors[] | .role as $role | .calls | to_entries[] | .key as $call |
        ({"null": .value.ok} + .value.errno) | to_entries[] | select(.value > 0) |
        "\($role) \($call) \(.key) \(.value)"' said | sort
}

# brk fails without an errno: it returns the old break.
counts_recorded() {
    rows memcalls.mtrace memory_calls | jq -s -r --slurpfile said said '. as $calls | $said[0] as $s | $s.actors[] |
        .role as $role | .tid as $tid | [$calls[] | select(.tid == $tid and .call != "fork")] |
        def marker($n): [.[] | select(.call == "madvise" and .prot_or_advice == $n)][0].ts;
        marker($s.marker_begin) as $from | marker($s.marker_end) as $to |
        [.[] | select(.ts >= $from and .ts <= $to) |
            if .call == "brk" and .addr != 0 and .result != .addr then .errno = 12 else . end] |
        group_by([.call, .errno])[] | "\($role) \(.[0].call) \(.[0].errno) \(length)"' | sort
}

host() {
    expect_exact memcalls.mtrace
    counts_said > counts.said
    counts_recorded > counts.recorded
    at_least "kinds of calls, outcomes and threads compared" "$(wc -l < counts.said)" 20
    equal "calls recorded = counted by the program" \
        "$(diff counts.said counts.recorded | tr '\n' ' ' | grep . || echo same)" same
    # The call that made the child is a row of the parent.
    equal "forks recorded" "$(rows memcalls.mtrace memory_calls | jq -s '[.[] | select(.call == "fork") | .result]')" \
        "$(jq '[.actors[] | select(.role == "child") | .pid]' said)"
    expect_replayed memcalls.mtrace end
}
