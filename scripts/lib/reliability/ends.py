"""Targets that end, stop or are held."""

import json
import os
import signal
import time

from .loss import faults_agree


def dies_during_attach(lab, outcome):
    """--pid of a process that ends from 0 to 50 ms later, or within the time that attaching takes"""
    codes = {}
    for i in range(lab.runs(12, 4)):
        outcome.runs += 1
        target = lab.spawn(lab.crowd, "nap", int(lab.random.uniform(0, 50 if i % 2 else 500)))
        recorder = lab.record("--pid", target.pid)
        target.wait()
        code = recorder.wait()
        codes[code] = codes.get(code, 0) + 1
        outcome.hold(code in (0, 3, 5), f"exit code {code}: {recorder.said}")
        if code == 3:
            outcome.hold(not recorder.capture.exists(), "a capture of a process that does not exist")
            outcome.hold(str(target.pid) in recorder.said, f"does not name the process: {recorder.said}")
        else:
            outcome.complete(recorder.capture)
    outcome.notes.append("exit codes " + ", ".join(f"{c}: {n}" for c, n in sorted(codes.items())))


def target_killed(lab, outcome):
    """kill -9 of the target at a random moment"""
    for _ in range(lab.runs(6, 2)):
        outcome.runs += 1
        recorder = lab.record("--", lab.services / "faultloop", 16, 1000000)
        recorder.until_recording()
        time.sleep(lab.random.uniform(0, 1.5))
        pid = children_of(recorder.process.pid)[0]
        os.kill(pid, signal.SIGKILL)
        outcome.hold(recorder.wait() in (0, 5), recorder.said)
        capture = outcome.complete(recorder.capture)
        if capture:
            outcome.equal("status", capture.manifest["targets"][0]["exit_status"], 9)
            faults_agree(outcome, capture)


def target_stopped(lab, outcome):
    """SIGSTOP of the target: for a second, and until after the recording's end"""
    outcome.runs += 2
    target = lab.talker("window", 20000)
    outcome.equal("said", target.stdout.readline(), "ready\n")
    recorder = lab.record("--pid", target.pid)
    recorder.until_recording()
    target.stdin.write("go\n")
    target.send_signal(signal.SIGSTOP)
    time.sleep(1)
    target.send_signal(signal.SIGCONT)
    said = json.loads(target.stdout.readline())
    target.send_signal(signal.SIGSTOP)
    outcome.hold(recorder.stop() in (0, 5), recorder.said)
    capture = outcome.complete(recorder.capture)
    if capture:
        outcome.equal("faults in the window", capture.faults_between(said), said["faults"])
    recorder = lab.record("--pid", target.pid, "--duration", "1s")
    outcome.hold(recorder.wait() in (0, 5), recorder.said)
    outcome.complete(recorder.capture)


def target_traced(lab, outcome):
    """a target that strace holds: attached to, and launched"""
    outcome.runs += 2
    target = lab.talker("window", 5000)
    outcome.equal("said", target.stdout.readline(), "ready\n")
    strace = lab.spawn("strace", "-f", "-q", "-o", "/dev/null", "-p", target.pid)
    time.sleep(0.5)
    recorder = lab.record("--pid", target.pid)
    recorder.until_recording()
    target.stdin.write("go\n")
    said = json.loads(target.stdout.readline())
    outcome.hold(recorder.stop() in (0, 5), recorder.said)
    strace.send_signal(signal.SIGINT)
    capture = outcome.complete(recorder.capture)
    if capture:
        outcome.equal("faults in the window", capture.faults_between(said), said["faults"])
    recorder = lab.record("--", "strace", "-f", "-q", "-o", "/dev/null", lab.crowd, "calls", 1000)
    outcome.hold(recorder.wait() in (0, 5), recorder.said)
    capture = outcome.complete(recorder.capture)
    if capture:
        traced = recorder.target_says()["pid"]
        kept = [r for r in capture.rows("memory_calls") if r["pid"] == traced and r["call"] == "madvise"]
        outcome.at_least("madvise calls of the traced process", len(kept), 1000)


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
        return [int(p) for p in f.read().split()]
