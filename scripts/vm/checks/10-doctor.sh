# shellcheck shell=sh
# mtrace doctor has nothing to complain about on a kernel that Debian ships, but for the probe of faults where there is
# neither a tracepoint nor fentry.
guest() {
    mtrace doctor > found
}

host() {
    equal "doctor: what is not ok" "$(grep '^[a-z]' found | grep -v '^ok ' | cut -d: -f1 | tr -s ' \n' ' ' | grep . || echo nothing)" \
        "$(has_fentry && echo nothing || echo 'degraded architecture degraded probe faults ')"
    at_least "doctor: things looked at" "$(grep -c '^ok ' found)" 15
}
