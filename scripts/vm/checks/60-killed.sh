# shellcheck shell=sh
# A recorder that is killed leaves a capture that analyses.
guest() {
    mtrace record -o killed.mtrace --segment-interval 300ms -- faultloop 16 1000000 &
    recorder=$!
    wait_until 60 test -e killed.mtrace/faults/000003.parquet
    kill -9 "$recorder"
}

host() {
    equal "closed in order" "$(report killed.mtrace .capture.complete)" false
    at_least "faults in the closed segments" "$(report killed.mtrace '[.faults.kinds[].faults] | add')" 1000
    says "the report says so" "$(report killed.mtrace '.trust.damage[]')" 'did not come to its end'
}
