"""Where the capture is written to."""

import shutil
import subprocess
import time

# Writes a row per fault: 64 MiB a round make some hundred KiB of capture.
BUSY = ("--faults=every", "--segment-interval", "200ms", "--duration", "20s", "--")


def busy(lab):
    return (*BUSY, lab.services / "faultloop", 16, 100000, "random")


def disk_full(lab, outcome):
    """tmpfs of 32 KiB to 4 MiB that fills up"""
    for size in ("32k", "300k", "600k", "1M", "2M", "4M"):
        outcome.runs += 1
        disk = lab.small_disk(size)
        recorder = lab.record(*busy(lab), output=disk / "full.mtrace")
        code = recorder.wait()
        if size == "32k":
            outcome.equal("exit code without room for a manifest", code, 1)
            outcome.hold("free some space" in recorder.said, f"does not say what next: {recorder.said}")
            outcome.equal("left behind", list(disk.iterdir()), [])
            continue
        outcome.equal(f"exit code on {size}", code, 5)
        capture = outcome.complete(recorder.capture)
        if capture:
            outcome.equal(f"end reason on {size}", capture.manifest["window"]["end_reason"], "disk full")


def disk_read_only(lab, outcome):
    """output on a filesystem that is mounted read-only"""
    outcome.runs += 1
    disk = lab.small_disk("1M")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    recorder = lab.record("--", "/bin/true", output=disk / "never.mtrace")
    outcome.equal("exit code", recorder.wait(), 1)
    outcome.hold("never.mtrace" in recorder.said and "ead-only" in recorder.said, f"says only: {recorder.said}")


def made_immutable(lab, outcome):
    """nothing may be created in the capture any more (chattr +i) while recording"""
    outcome.runs += 1
    recorder = lab.record(*busy(lab))
    recorder.until_recording()
    time.sleep(0.5)
    folders = [recorder.capture, recorder.capture / "faults"]
    if subprocess.run(["chattr", "+i", *folders], capture_output=True, check=False).returncode:
        outcome.skipped = "this filesystem has no immutable files"
        return
    try:
        code = recorder.wait()
    finally:
        subprocess.run(["chattr", "-i", *folders], check=True)
    outcome.hold(code in (1, 5), f"exit code {code}")
    outcome.hold("recording ended early" in recorder.said or "failed to" in recorder.said, f"says {recorder.said}")
    outcome.killed(recorder.capture)


def directory_removed(lab, outcome):
    """rm -r of the capture while recording; in every second run something else takes its name"""
    elsewhere = lab.path("elsewhere")
    elsewhere.mkdir()
    for i in range(lab.runs(4, 2)):
        outcome.runs += 1
        recorder = lab.record(*busy(lab))
        recorder.until_recording()
        time.sleep(lab.random.uniform(0.2, 0.8))
        moved = recorder.capture.with_suffix(".moved")
        recorder.capture.rename(moved)
        while moved.exists():
            # The recorder still makes files in it.
            shutil.rmtree(moved, ignore_errors=True)
        if i % 2:
            recorder.capture.symlink_to(elsewhere)
        begin = time.monotonic()
        code = recorder.wait()
        outcome.hold(time.monotonic() - begin < 15, "took more than 15 s to notice")
        outcome.equal("exit code", code, 1)
        outcome.hold(recorder.capture.name in recorder.said, f"does not name the capture: {recorder.said}")
        outcome.equal("written through the link", [str(p) for p in elsewhere.rglob("*")], [])
