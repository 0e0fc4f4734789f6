# shellcheck shell=sh
# Go: as many collections as GODEBUG=gctrace=1 prints; heap and scavenger as the runtime's own metrics say.
guest() {
    GODEBUG=gctrace=1 mtrace record -o go.mtrace -- gcgrowth -live-mib 16 -rounds 5 -grow-mib 8 > said 2> trace
    GOGC=77 mtrace record -o memory.mtrace -- gomemory -live-mib 16 -garbage-mib 64 > metrics
}

host() {
    expect_exact go.mtrace
    expect_probes go.mtrace gc_events=uprobe
    cycles=$(grep -c '^gc [0-9]* @' trace)
    equal "collections that gctrace printed = that the program counted" "$cycles" "$(jq .gc_cycles said)"
    for event in cycle_start mark_termination sweep; do
        equal "$event events = collections" \
            "$(rows go.mtrace gc_events | jq -s "[.[] | select(.event == \"$event\")] | length")" "$cycles"
    done
    equal "collections in the report" "$(report go.mtrace '.gc.cycles | length')" "$cycles"

    expect_exact memory.mtrace
    expect_probes memory.mtrace go_memory=uprobe
    grown=$(rows memory.mtrace go_memory | jq -s '[.[] | select(.event == "heap_growth") | .bytes] | add')
    equal "bytes that the heap took = runtime/metrics" "$grown" "$(jq .heap_mapped_bytes metrics)"
    equal "assists that were seen to begin" \
        "$(rows memory.mtrace go_memory | jq -s '[.[] | select(.event == "mark_assist") | .dur == null] | any')" false
    equal "GOGC as it was started with" "$(rows memory.mtrace runtimes | jq -r 'select(.key == "GOGC").value')" 77
    # There is no JVM in here, but its programs are loaded.
    equal "programs for JVMs" \
        "$(manifest memory.mtrace '.probes[] | select(.name == "jvm_events") | .status, .variant' | tr '\n' ' ')" \
        "not_applicable usdt "
}
