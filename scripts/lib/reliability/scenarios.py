"""The list. A scenario is a function that takes (lab, outcome); its docstring is what the table says about it."""

from . import clock, crowds, disks, ends, kills, loss, pairs, pressure, private

# (function, in --quick)
ALL = [
    (kills.full_rate, True),
    (kills.go_service, True),
    (kills.during_attach, True),
    (kills.during_finish, True),
    (disks.disk_full, True),
    (disks.disk_read_only, True),
    (disks.made_immutable, False),
    (disks.directory_removed, True),
    (loss.tiny_ring, True),
    (loss.tiny_ring_calls, True),
    (loss.recorder_stopped, False),
    (loss.recorder_starved, False),
    (crowds.exec_storm, True),
    (crowds.fork_storm, False),
    (crowds.spawn_storm, False),
    (crowds.herd, False),
    (crowds.threads_at_once, False),
    (crowds.thread_churn, False),
    (ends.dies_during_attach, True),
    (ends.target_killed, True),
    (ends.target_stopped, True),
    (ends.target_traced, False),
    (pairs.two_on_one_target, True),
    (pairs.two_apart, False),
    (clock.clock_set, False),
    (pressure.little_memory, False),
    (pressure.small_cgroup, False),
    (pressure.few_descriptors, True),
    (private.secrets, True),
    (private.links_of_others, True),
]
