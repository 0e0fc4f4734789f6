# shellcheck shell=sh
# mmap_lock: a thread of the target holds it in one run, a foreign reader of its smaps in the other.
guest() {
    mtrace record -o own.mtrace --without faults -- maplock 96 3 reprotect > own.said
    maplock 96 90 alone > foreign.said &
    wait_until 60 grep -q ready foreign.said
    target=$(pidof maplock)
    mtrace record -o foreign.mtrace --duration 3s --without faults --pid "$target" &
    recorder=$!
    wait_until 60 grep -q '"start_ns": [0-9]' foreign.mtrace/manifest.json
    maplock read 60 "$target" &
    wait "$recorder"
    killall maplock
}

host() {
    expect_exact own.mtrace
    expect_exact foreign.mtrace
    at_least "waits for a thread of its own" "$(rows own.mtrace lock_waits |
        jq -s '[.[] | select(.holder_mode == "write" and .holder_pid == .pid and .holder_tid != .tid)] | length')" 1
    at_least "waits for a foreign reader" "$(rows foreign.mtrace lock_waits |
        jq -s '[.[] | select(.holder_mode == "read" and .holder_pid != .pid and .holder_comm == "smaps-agent")] | length')" 1
}
