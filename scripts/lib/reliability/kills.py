"""SIGKILL of the recorder."""

import subprocess
import time

# A segment is closed after 250 ms, then at intervals that double up to 5 s: the next one takes no longer than all
# before, and 250 ms. On a busy machine the recorder comes to it late, and a target may not run for a while.
FIRST_SEGMENT_NS = 250_000_000
LATE_NS = 2_000_000_000
QUIET_NS = 500_000_000


def full_rate(lab, outcome):
    """kill -9 of the recorder within 3 s of recording; the target does nothing but page faults"""
    for i in range(lab.runs(30, 4)):
        mode = ("runs", "every")[i % 2]
        recorder = lab.record(f"--faults={mode}", "--", lab.services / "faultloop", 16, 1000000)
        recorder.until_recording()
        kill_at_random(lab, outcome, recorder, 3.0, busy=True)


def go_service(lab, outcome):
    """the same; the target is a Go service that starts and answers requests"""
    for _ in range(lab.runs(20, 3)):
        recorder = lab.record("--", lab.services / "coldstart", "-addr", "127.0.0.1:0", "-cache-mib", 64)
        client = lab.services / "client"
        lab.spawn(client, "-addr-from", recorder.out, "-requests", 1000000, "-wait", "30s", **quiet())
        recorder.until_recording()
        kill_at_random(lab, outcome, recorder, 3.0)
        lab.clean()


def during_attach(lab, outcome):
    """kill -9 within the time that the start takes: the host is looked at, probes are loaded and attached"""
    start_takes = None
    for _ in range(lab.runs(12, 3)):
        recorder = lab.record("--", lab.services / "faultloop", 16, 1000000)
        if start_takes is None:
            recorder.until_recording()
            start_takes = time.monotonic() - recorder.started
        kill_at_random(lab, outcome, recorder, start_takes)
    outcome.notes.append(f"{start_takes:.1f} s")


def during_finish(lab, outcome):
    """kill -9 after Ctrl-C, within the time that the end takes: names are resolved, the books are closed"""
    closed, end_takes = 0, None
    for _ in range(lab.runs(10, 3)):
        recorder = lab.record("--", lab.services / "coldstart", "-addr", "127.0.0.1:0", "-cache-mib", 16)
        recorder.until_recording()
        time.sleep(0.6)
        recorder.signal(2)
        if end_takes is None:
            begin = time.monotonic()
            recorder.wait()
            end_takes = time.monotonic() - begin
        else:
            time.sleep(lab.random.uniform(0, end_takes))
        closed += look(outcome, recorder, recorder.kill())
    outcome.notes.append(f"{closed} had closed the capture, the first one after {end_takes:.1f} s")


def quiet():
    return {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def kill_at_random(lab, outcome, recorder, latest, busy=False):
    time.sleep(lab.random.uniform(0, latest))
    at = recorder.kill()
    outcome.hold(at, f"the recorder ended by itself: {recorder.said}")
    look(outcome, recorder, at, busy)


def look(outcome, recorder, killed_at, busy=False):
    """Holds what the kill left against the promises; 1 if the capture was closed in order."""
    outcome.runs += 1
    recorder.end_target()
    path = recorder.capture
    if not path.exists():
        return 0
    closed = killed_at is None or '"state": "complete"' in (path / "manifest.json").read_text()
    if closed:
        outcome.complete(path)
    else:
        capture = outcome.killed(path)
        if capture:
            at_most_one_segment(outcome, capture, killed_at, busy)
    outcome.drop(path)
    return int(closed)


def at_most_one_segment(outcome, capture, killed_at, busy):
    window, last = capture.manifest["window"], capture.last_row_ns()
    start, closed, due = window["start_ns"], window.get("closed_ns"), window.get("next_closing_ns")
    if start is None or closed is None or last is None:
        return
    seconds = [round((t - start) / 1e9, 2) for t in (closed, last, due, killed_at)]
    where = f"{capture.path.name}: closed at {seconds[0]} s, last row {seconds[1]}, due at {seconds[2]}, killed at {seconds[3]}"
    outcome.hold(due - closed <= closed - start + FIRST_SEGMENT_NS + LATE_NS, f"{where}: more than the time before is open")
    outcome.hold(killed_at <= due + LATE_NS, f"{where}: more is missing than the capture says")
    # A target at work has calls all the time: what is said to be closed is there.
    outcome.hold(not busy or last >= closed - QUIET_NS, f"{where}: rows before the closing are missing")
