# shellcheck shell=sh
# Small pages that become huge ones, because the program asks for it and by khugepaged; and smaps before and after.
guest() {
    mtrace record -o own.mtrace --without faults -- thp madvise 4 > own.said
    for setting in scan_sleep_millisecs alloc_sleep_millisecs; do
        echo 50 > "/sys/kernel/mm/transparent_hugepage/khugepaged/$setting"
    done
    # Sparse until it is recorded.
    thp khugepaged 4 60 10 > daemon.said &
    mtrace record -o daemon.mtrace --duration 20s --without faults --pid $! &
    recorder=$!
    wait_until 60 grep -q rss_kb daemon.said
    kill -INT "$recorder"
    wait "$recorder"
    killall thp
}

# said FILE FILTER
said() {
    jq -r "$2" "$1.said"
}

# sum CAPTURE MOMENT COLUMN, in KiB
sum() {
    rows "$1" smaps | jq -s "[.[] | select(.moment == \"$2\") | .$3] | add / 1024"
}

host() {
    for name in own daemon; do
        expect_exact "$name.mtrace"
        # 6.1 does not tell the addresses of files.
        says "$name.mtrace: probe collapses" "$(manifest "$name.mtrace" '.probes[] | select(.name == "collapses") |
            "\(.status) \(.variant)"')" '^ran tp_btf(, no address)?$'
        equal "$name.mtrace: ranges in huge pages, KiB" "$(said "$name" '.huge_kb[1] - .huge_kb[0]')" 8192
        equal "$name.mtrace: ranges collapsed" "$(rows "$name.mtrace" collapses |
            jq -s '[.[] | select(.result == "succeed")] | length')" 4
        equal "$name.mtrace: pages that came = growth of anonymous memory, KiB" "$(rows "$name.mtrace" collapses |
            jq -s '[.[] | .new_pages // 0] | add * 4')" "$(said "$name" '.anon_kb[1] - .anon_kb[0]')"
    done
    equal "who did it" "$(for name in own daemon; do rows $name.mtrace collapses; done | jq -r .by | sort -u | xargs)" \
        "khugepaged own"
    equal "smaps: in huge pages at the begin and the end, KiB" \
        "$(sum daemon.mtrace begin anon_huge_bytes) $(sum daemon.mtrace end anon_huge_bytes)" "0 8192"
    rss=$(sum daemon.mtrace end rss_bytes)
    at_least "smaps: resident at the end, KiB" "$rss" "$(said daemon '.rss_kb[1]')"
    at_least "smaps: and not 256 KiB more than the rollup said" "$(said daemon '.rss_kb[1] + 256')" "$rss"
}
