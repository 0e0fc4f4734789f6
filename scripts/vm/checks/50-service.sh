# shellcheck shell=sh
# A Go service that is attached to while it runs, and answers requests meanwhile.
guest() {
    coldstart -addr 127.0.0.1:0 -cache-mib 16 -garbage-mib 8 > said &
    service=$!
    wait_until 60 grep -q 'listening on' said
    mtrace record -o service.mtrace --pid "$service" &
    recorder=$!
    # The manifest is there before the probes are.
    wait_until 60 grep -q '"start_ns": [0-9]' service.mtrace/manifest.json
    client -addr-from said -requests 3 -wait 60s
    kill -INT "$recorder"
    wait "$recorder"
    kill "$service"
}

host() {
    expect_exact service.mtrace
    expect_probes service.mtrace gc_events=uprobe io_calls=tp_btf
    expect_replayed service.mtrace end
    says "who touched the cache has a name" \
        "$(report service.mtrace '[.faults.groups[].toucher.function] | join(" ")')" 'cache\.\(\*Store\)\.Fill'
    says "a request was seen" "$(report service.mtrace '[.ledgers[].window.name] | join(" ")')" 'slowest request'
}
