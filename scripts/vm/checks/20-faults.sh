# shellcheck shell=sh
# Every page fault from exec to exit is a row: as many as getrusage counted.
guest() {
    mtrace record -o faults.mtrace -- faultloop 16 4 random > said
}

host() {
    expect_exact faults.mtrace
    expect_probes faults.mtrace process_events=tp_btf memory_calls=tp_btf refusals=tp_btf io_calls=tp_btf \
        "faults=$(faults_variant)" off_cpu=tp_btf reclaims=tp_btf lock_waits=tp_btf oom_kills=tp_btf \
        "throttles=$(has_fentry && echo fentry || echo kprobe)"
    # Where it stood when it was stopped at its exec: the recorder's fork had faults as well.
    for kind in minor major; do
        key=$(printf %.3s "$kind")flt
        before=$(rows faults.mtrace samples | jq -s "[.[] | select(.source == \"stat\" and .key == \"$key\")][0].value")
        counted=$(manifest faults.mtrace ".targets[0].rusage_${kind}_faults - $before")
        equal "$kind faults recorded = counted by getrusage" \
            "$(faults faults.mtrace "$kind")" "$counted"
    done
    at_least "faults recorded >= pages that the program touched" \
        "$({ rows faults.mtrace faults; rows faults.mtrace fault_runs; } |
            jq -s '[.[] | select(.error_code == 6) | .count // 1] | add')" "$(jq .pages said)"
    equal "faults without a service time" "$(rows faults.mtrace faults | jq -s '[.[] | select(.dur == null)] | length')" 0
    says "the toucher has its name" "$(report faults.mtrace '.faults.groups[0].toucher.function')" '^touch_pages$'
}
