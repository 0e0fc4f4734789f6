# shellcheck shell=sh
# mtrace doctor has nothing to complain about on a kernel that Debian ships.
guest() {
    mtrace doctor > found
}

host() {
    equal "doctor: lines that are not ok" "$(grep -cv '^ok ' found)" 0
    at_least "doctor: things looked at" "$(grep -c '^ok ' found)" 15
}
