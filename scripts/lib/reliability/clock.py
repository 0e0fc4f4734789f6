"""The wall clock is set while recording."""

import time

JUMP_SECONDS = 20


def clock_set(lab, outcome):
    """the wall clock is set 20 s ahead and 1.2 s later back again"""
    outcome.runs += 1
    recorder = lab.record("--", lab.services / "faultloop", 16, 100000, "seq")
    recorder.until_recording()
    time.sleep(1)
    began = time.monotonic_ns()
    offset = time.time_ns() - began
    try:
        time.clock_settime_ns(time.CLOCK_REALTIME, time.time_ns() + JUMP_SECONDS * 10**9)
    except PermissionError:
        outcome.skipped = "the clock may not be set here"
        return
    try:
        time.sleep(1.2)
    finally:
        time.clock_settime_ns(time.CLOCK_REALTIME, time.monotonic_ns() + offset)
    ended = time.monotonic_ns()
    time.sleep(0.5)
    outcome.hold(recorder.stop() in (0, 5), recorder.said)
    capture = outcome.complete(recorder.capture)
    if not capture:
        return
    window, clocks = capture.manifest["window"], capture.manifest["clocks"]
    calls = [r["ts"] for r in capture.rows("memory_calls")]
    outcome.hold(window["start_ns"] <= min(calls) and max(calls) <= window["end_ns"], "times outside of the recording")
    outcome.at_least("calls while the clock was set", sum(began < t < ended for t in calls), 1)
    shown = {round((c["realtime_ns"] - c["monotonic_ns"] - offset) / 1e9) for c in clocks}
    outcome.equal("offsets of the clock pairs, in s", shown, {0, JUMP_SECONDS})
    settings = [round(by / 1e9) for _, _, by in capture.report["trust"]["clock_settings"]]
    outcome.equal("settings of the clock in the report, in s", settings, [JUMP_SECONDS, -JUMP_SECONDS])
    outcome.hold("clock was set 2 times" in capture.markdown, "report.md does not say it")
