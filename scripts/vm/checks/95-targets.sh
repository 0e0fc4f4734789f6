# shellcheck shell=sh
# A control group, a container by the begin of its id, a whole host; pid namespaces (cgroup v2 here).
guest() {
    id=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
    group=/sys/fs/cgroup/docker-$id.scope
    mkdir "$group"
    mtrace record -o group.mtrace --cgroup "$group" --duration 60s &
    wait_until 60 grep -q '"start_ns": [0-9]' group.mtrace/manifest.json
    inside 'exec unshare -p -f faultloop 4 1'
    # Nobody can come any more: the recording ends.
    wait_until 20 rmdir "$group"
    wait $!
    mkdir "$group"
    inside 'exec faultloop 4 1000000' &
    wait_until 20 pidof faultloop
    mtrace record -o container.mtrace --container 0123456789ab --duration 500ms
    mtrace record -o host.mtrace --all --duration 500ms
    killall -9 faultloop
}

# inside COMMANDS: a shell that moves itself into the group first.
inside() {
    sh -c "echo \$\$ > $group/cgroup.procs; $1"
}

host() {
    faultloop() { manifest "$1" "[.targets[] | select(.comm == \"faultloop\") | .$2] | unique | join(\",\")"; }
    for capture in group.mtrace container.mtrace; do
        expect_exact "$capture"
        expect_probes "$capture" process_events=tp_btf "faults=$(faults_variant)"
        says "$capture: the group of the program" "$(faultloop "$capture" cgroup)" '^/docker-(0123456789abcdef){4}\.scope$'
    done
    equal "group.mtrace: why it ended" "$(manifest group.mtrace .window.end_reason)" 'target exited'
    equal "group.mtrace: the program's pid for itself" "$(faultloop group.mtrace ns_pid)" 1
    at_least "group.mtrace: faults, no less than pages in 4 MiB" \
        "$(report group.mtrace '[.faults.kinds[].faults] | add')" "$(manifest group.mtrace '4194304 / .host.page_size_bytes')"
    equal "container.mtrace: how it became a target" "$(faultloop container.mtrace how)" container
    equal "host.mtrace: how it became a target" "$(faultloop host.mtrace how)" all
    equal "host.mtrace: recorders in it" "$(manifest host.mtrace '[.targets[] | select(.comm == "mtrace")] | length')" 0
}
