# shellcheck shell=sh
# What a check's host() uses. MTRACE, ROWS and LABEL come from scripts/vmtest; the current folder is what the guest's
# part wrote. Every expectation prints one line and adds one to RESULTS.

# verdict pass|FAIL WHAT
verdict() {
    printf '%s %s: %s\n' "$1" "$LABEL" "$2"
    echo "$1" >> "$RESULTS"
}

# equal WHAT FOUND EXPECTED: both not empty, and the same.
equal() {
    if [ -n "$2" ] && [ "$2" = "$3" ]; then
        verdict pass "$1: $2"
    else
        verdict FAIL "$1: found \`$2\`, expected \`$3\`"
    fi
}

# at_least WHAT FOUND EXPECTED
at_least() {
    if [ -n "$2" ] && [ "$2" -ge "$3" ]; then
        verdict pass "$1: $2"
    else
        verdict FAIL "$1: found \`$2\`, expected at least $3"
    fi
}

# says WHAT TEXT PATTERN: an extended regular expression.
says() {
    if printf '%s\n' "$2" | grep -Eq "$3"; then
        verdict pass "$1"
    else
        verdict FAIL "$1: found \`$2\`, expected it to match \`$3\`"
    fi
}

# rows CAPTURE TABLE: one JSON object a line.
rows() {
    "$ROWS" "$1" "$2"
}

# faults CAPTURE KIND: how many, single ones and those of runs.
faults() {
    { rows "$1" faults; rows "$1" fault_runs; } | jq -s "[.[] | select(.kind == \"$2\") | .count // 1] | add // 0"
}

# manifest CAPTURE FILTER: the answer of jq.
manifest() {
    jq -r "$2" "$1/manifest.json"
}

# report CAPTURE FILTER: analyses it at the first call. 5 is "done, but something is missing".
report() {
    if [ ! -e "$1.report/report.json" ]; then
        "$MTRACE" analyze "$1" -o "$1.report" > "$1.analyze.log" 2>&1 || [ $? = 5 ] || cat "$1.analyze.log" >&2
    fi
    jq -r "$2" "$1.report/report.json"
}

# Each probe's seen = written + lost, and nothing lost.
expect_exact() {
    equal "$1: accounts that do not balance" \
        "$(manifest "$1" '[.accounts[] | select(.seen != .written + ([.lost[]] | add // 0))] | length')" 0
    equal "$1: events lost" "$(manifest "$1" '[.accounts[].lost[]] | add // 0')" 0
    at_least "$1: events written" "$(manifest "$1" '[.accounts[].written] | add')" 1
}

# expect_probes CAPTURE PROBE=VARIANT...: each ran, whole (unless it says "(partial)"), in that variant.
expect_probes() {
    _capture=$1
    shift
    for _want in "$@"; do
        _found=$(manifest "$_capture" ".probes[] | select(.name == \"${_want%%=*}\") |
            if .status == \"ran\" then .variant
            elif .status == \"partial\" and \"\(.variant) (partial)\" == \"${_want#*=}\" then \"\(.variant) (partial)\"
            else .status + \": \" + .reason end")
        equal "$_capture: probe ${_want%%=*}" "$_found" "${_want#*=}"
    done
}

# The maps replayed from the calls are those that /proc/PID/maps showed, at every snapshot of the given kind.
expect_replayed() {
    at_least "$1: snapshots of kind $2" "$(report "$1" "[.trust.replay[] | select(.snapshot == \"$2\")] | length")" 1
    equal "$1: replayed maps that differ from /proc" \
        "$(report "$1" '[.trust.replay[] | select(.equal | not) | .snapshot, .differences[]] | join("; ") |
            if . == "" then "none" else . end')" none
}
