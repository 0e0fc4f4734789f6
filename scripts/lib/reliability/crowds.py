"""Many processes, many threads: all bounded, all counted."""

import collections

from .loss import faults_agree

# The recorder reads /proc of each process it hears of; some are gone by then, which is said, not hidden.


def crowd(lab, outcome, *argv, options=()):
    outcome.runs += 1
    recorder = lab.record(*options, "--", lab.crowd, *argv)
    code = recorder.wait()
    outcome.hold(code in (0, 5), f"exit code {code}: {recorder.said}")
    capture = outcome.complete(recorder.capture, slow=True)
    if capture:
        target = capture.manifest["targets"][0]
        outcome.equal(f"{argv}: exit status of the target", target["exit_status"], 0)
    return capture


def events(capture):
    return collections.Counter(r["event"] for r in capture.rows("process_events"))


def lives(outcome, capture, base, n, **per_one):
    """Every life event was seen: known numbers against the account, and against the rows if none was lost."""
    account, usual = capture.account("process_events"), base.account("process_events")
    outcome.equal("life events seen", account["seen"] - usual["seen"], n * sum(per_one.values()))
    outcome.equal("children not followed", account["ignored"].get("child_not_followed", 0), 0)
    if capture.lost("process_events"):
        outcome.notes.append("some life events lost")
        return
    more = events(capture) - events(base)
    for kind, each in per_one.items():
        outcome.equal(f"rows `{kind}`", more[kind], n * each)


def exec_storm(lab, outcome):
    """one process that executes itself 2,000 times"""
    base = crowd(lab, outcome, "execs", 0)
    capture = crowd(lab, outcome, "execs", 2000)
    if base and capture:
        lives(outcome, capture, base, 2000, exec=1, name=1)


def fork_storm(lab, outcome):
    """10,000 children that exit at once, up to 64 at a time"""
    base = crowd(lab, outcome, "forks", 0, 64)
    capture = crowd(lab, outcome, "forks", 10000, 64)
    if base and capture:
        lives(outcome, capture, base, 10000, fork=1, thread_exit=1, exit=1)
        faults_agree(outcome, capture)


def spawn_storm(lab, outcome):
    """3,000 children that execute a program and end, up to 64 at a time"""
    base = crowd(lab, outcome, "spawns", 0, 64)
    capture = crowd(lab, outcome, "spawns", 3000, 64)
    if base and capture:
        lives(outcome, capture, base, 3000, fork=1, exec=1, name=1, thread_exit=1, exit=1)


def herd(lab, outcome):
    """9,000 children that live at the same time: more than there is room for among the targets"""
    n, room = 9000, 8192
    base = crowd(lab, outcome, "herd", 0)
    capture = crowd(lab, outcome, "herd", n)
    if not base or not capture:
        return
    account, usual = capture.account("process_events"), base.account("process_events")
    without = account["ignored"].get("child_not_followed", 0)
    # The parent is a target, too.
    outcome.equal("children not followed", without, n + 1 - room)
    outcome.equal("life events seen", account["seen"] - usual["seen"], n + 2 * (n - without))
    said = [w for w in capture.report["trust"]["not_checked"] if f"{without} processes are not recorded" in w]
    outcome.hold(said, "the report does not say that children were not followed")
    outcome.notes.append(f"{without} not followed, which the report says")


def threads_at_once(lab, outcome):
    """10,000 threads that live at the same time"""
    base = crowd(lab, outcome, "threads", 1)
    capture = crowd(lab, outcome, "threads", 10001)
    if base and capture:
        lives(outcome, capture, base, 10000, thread=1, thread_exit=1)
        faults_agree(outcome, capture)


def thread_churn(lab, outcome):
    """20,000 threads one after the other"""
    base = crowd(lab, outcome, "churn", 1)
    capture = crowd(lab, outcome, "churn", 20001)
    if base and capture:
        lives(outcome, capture, base, 20000, thread=1, thread_exit=1)
        faults_agree(outcome, capture)
