"""Two recorders at once."""

import json

from .loss import faults_agree


def two_on_one_target(lab, outcome):
    """two recorders, in different modes, attached to the same process"""
    outcome.runs += 1
    target = lab.talker("window", 30000)
    outcome.equal("said", target.stdout.readline(), "ready\n")
    recorders = [lab.record(f"--faults={mode}", "--pid", target.pid) for mode in ("runs", "every")]
    for r in recorders:
        r.until_recording()
    target.stdin.write("go\n")
    said = json.loads(target.stdout.readline())
    target.stdin.write("end\n")
    outcome.equal("faults of the window, by getrusage", said["faults"] >= 30000, True)
    for r in recorders:
        outcome.hold(r.wait() in (0, 5), r.said)
        capture = outcome.complete(r.capture)
        if capture:
            outcome.equal("faults in the window", capture.faults_between(said), said["faults"])


def two_apart(lab, outcome):
    """two recorders at the same time, each with a target of its own"""
    outcome.runs += 1
    recorders = [
        lab.record(f"--faults={mode}", "--", lab.services / "faultloop", 16, 100, order)
        for mode, order in (("runs", "seq"), ("every", "random"))
    ]
    for r in recorders:
        outcome.hold(r.wait() in (0, 5), r.said)
        capture = outcome.complete(r.capture)
        if capture:
            faults_agree(outcome, capture)
            pids = {row["pid"] for row in capture.rows("memory_calls")}
            outcome.equal("processes in the capture", pids, {capture.manifest["targets"][0]["pid"]})
