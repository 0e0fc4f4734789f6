# shellcheck shell=sh
# Go: as many collections as GODEBUG=gctrace=1 prints.
guest() {
    GODEBUG=gctrace=1 mtrace record -o go.mtrace -- gcgrowth -live-mib 16 -rounds 5 -grow-mib 8 > said 2> trace
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
}
