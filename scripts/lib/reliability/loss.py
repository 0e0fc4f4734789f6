"""Buffers that are too small, and a recorder that does not come to reading them."""

import os
import signal
import time

PAGES_A_ROUND = 16 * 256


def faults_agree(outcome, capture):
    """What the kernel's own account of the target says is what the probe saw: written or lost."""
    account = capture.account("faults")
    outcome.equal("faults seen, by getrusage", account["seen"], capture.faults_from_exec())
    untimed = account["incomplete"].get("no_start", 0)
    outcome.hold(untimed <= account["seen"] / 100, f"{untimed} of {account['seen']} faults have no service time")


def tiny_ring(lab, outcome):
    """rings of 4 to 64 KiB at the full rate of faults, each a row"""
    for ring in ("4K", "16K", "64K"):
        for order in ("seq", "random"):
            outcome.runs += 1
            recorder = lab.record("--buffer", ring, "--faults=every", "--", lab.services / "faultloop", 16, 60, order)
            outcome.hold(recorder.wait() in (0, 5), recorder.said)
            capture = outcome.complete(recorder.capture)
            if capture:
                faults_agree(outcome, capture)
                outcome.at_least("faults seen", capture.account("faults")["seen"], 60 * PAGES_A_ROUND)
                if ring == "4K":
                    outcome.at_least("lost in 4 KiB", capture.lost("faults"), 1)
                    outcome.hold("lost" in capture.markdown, "report.md does not say that events are lost")
            outcome.drop(recorder.capture)


def tiny_ring_calls(lab, outcome):
    """rings of 4 and 64 KiB, and a known number of calls and faults"""
    calls, usual = 50_000, None
    for ring, n in (("16M", 0), ("4K", calls), ("64K", calls)):
        outcome.runs += 1
        recorder = lab.record("--buffer", ring, "--", lab.crowd, "calls", n)
        outcome.hold(recorder.wait() in (0, 5), recorder.said)
        capture = outcome.complete(recorder.capture)
        if not capture:
            continue
        faults_agree(outcome, capture)
        seen = capture.account("memory_calls")["seen"]
        usual = seen if usual is None else usual
        outcome.equal(f"memory calls seen with {ring}", seen - usual, n)


def recorder_stopped(lab, outcome):
    """SIGSTOP of the recorder for 2 s with a ring of 256 KiB: the interval of the loss covers it"""
    outcome.runs += 1
    recorder = lab.record("--buffer", "256K", "--faults=every", "--", lab.services / "faultloop", 16, 100000, "random")
    recorder.until_recording()
    time.sleep(1)
    begin = time.monotonic_ns()
    recorder.signal(signal.SIGSTOP)
    time.sleep(2)
    end = time.monotonic_ns()
    recorder.signal(signal.SIGCONT)
    time.sleep(1)
    outcome.hold(recorder.stop() in (0, 5), recorder.said)
    capture = outcome.complete(recorder.capture, slow=True)
    if not capture:
        return
    faults_agree(outcome, capture)
    losses = [r for r in capture.rows("losses") if r["probe"] == "faults" and r["reason"] == "ring_full"]
    inside = sum(r["count"] for r in losses if r["ts"] < end and r["ts"] + r["dur"] > begin)
    outcome.hold(inside > 0.9 * sum(r["count"] for r in losses), f"the loss is not where it was: {losses}")
    shown = [l for l in capture.report["trust"]["losses"] if l[:2] == ["faults", "ring_full"]]
    covers = any(l[3] <= end and l[4] >= begin for l in shown)
    outcome.hold(covers, f"no interval of the report covers the stop: {shown}")


def recorder_starved(lab, outcome):
    """the recorder at nice 19 beside busy loops on every CPU, ring of 1 MiB"""
    outcome.runs += 1
    for _ in range(4):
        lab.spawn("timeout", 20, "sh", "-c", "while :; do :; done")
    recorder = lab.record("--buffer", "1M", "--faults=every", "--", lab.services / "faultloop", 16, 100, "random")
    recorder.until_recording()
    for pid in os.listdir(f"/proc/{recorder.process.pid}/task"):
        os.setpriority(os.PRIO_PROCESS, int(pid), 19)
    outcome.hold(recorder.wait() in (0, 5), recorder.said)
    capture = outcome.complete(recorder.capture, slow=True)
    if capture:
        faults_agree(outcome, capture)
