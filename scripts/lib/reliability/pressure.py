"""A recorder that gets too little."""

import os
import pathlib
import resource
import subprocess
import time


def little_memory(lab, outcome):
    """address space of the recorder limited to its program and 2 to 300 MiB: it begins or says why not, and what is closed is read"""
    codes = {}
    # The program is mapped whole before it can say anything.
    program = os.path.getsize(lab.mtrace) >> 20
    for mib in (program + more for more in (2, 8, 16, 32, 64, 300)):
        outcome.runs += 1
        recorder = lab.record(
            "--faults=every", "--", "sh", "-c", f"ulimit -v unlimited; exec {lab.services}/faultloop 16 100 random",
            limits=[(resource.RLIMIT_AS, mib << 20)],
        )
        code = recorder.wait()
        recorder.end_target()
        codes[code] = codes.get(code, 0) + 1
        # -6: Rust aborts where an allocation fails. That is a kill like another.
        outcome.hold(code in (0, 1, 4, 5, -6), f"{mib} MiB: exit code {code}: {recorder.said}")
        outcome.hold(code == 0 or recorder.said.strip(), f"{mib} MiB: exit code {code}, and no word")
        if recorder.capture.exists():
            (outcome.killed if code == -6 else outcome.complete)(recorder.capture)
    outcome.notes.append("exit codes " + ", ".join(f"{c}: {n}" for c, n in sorted(codes.items())))


def small_cgroup(lab, outcome):
    """the recorder in a memory cgroup of 24 to 96 MiB, its target outside: it is slow, or killed and that is said"""
    root = pathlib.Path("/sys/fs/cgroup")
    v1 = (root / "memory/memory.limit_in_bytes").exists()
    group = root / ("memory" if v1 else "") / f"mtrace-reliability-{os.getpid()}"
    limit = group / ("memory.limit_in_bytes" if v1 else "memory.max")
    try:
        group.mkdir()
    except OSError as e:
        outcome.skipped = f"no memory cgroup may be made here: {e}"
        return
    try:
        if not limit.exists():
            outcome.skipped = "the memory controller is not delegated here"
            return
        for mib in (24, 32, 48, 96):
            in_group(lab, outcome, group, limit, mib)
    finally:
        lab.clean()
        time.sleep(0.2)
        group.rmdir()


def in_group(lab, outcome, group, limit, mib):
    outcome.runs += 1
    limit.write_text(f"{mib}M")
    target = lab.spawn(lab.services / "faultloop", 16, 100000, "random", stdout=subprocess.DEVNULL)
    join = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]
    recorder = lab.record("--buffer", "4M", "--faults=every", "--duration", "3s", "--pid", target.pid, under=join)
    code = recorder.wait()
    outcome.hold(code in (0, 4, 5, -9), f"{mib} MiB: exit code {code}: {recorder.said}")
    outcome.notes.append(f"{mib} MiB: {'killed' if code == -9 else f'exit code {code}'}")
    if recorder.capture.exists():
        (outcome.killed if code == -9 else lambda c: outcome.complete(c, slow=True))(recorder.capture)
    target.kill()


def few_descriptors(lab, outcome):
    """8 to 100 file descriptors: what does not fit is left out and named, or the recorder says why it cannot begin"""
    codes = {}
    for limit in (8, 16, 24, 40, 60, 80, 100):
        outcome.runs += 1
        recorder = lab.record(
            "--", lab.services / "faultloop", 16, 20, limits=[(resource.RLIMIT_NOFILE, limit)]
        )
        code = recorder.wait()
        codes[code] = codes.get(code, 0) + 1
        outcome.hold(code in (0, 1, 4, 5), f"{limit} descriptors: exit code {code}: {recorder.said}")
        if code in (1, 4):
            outcome.hold(not recorder.capture.exists(), f"{limit} descriptors: a capture is left")
            outcome.hold("iles" in recorder.said, f"{limit} descriptors: does not say why: {recorder.said}")
            continue
        capture = outcome.complete(recorder.capture)
        if capture:
            for p in capture.manifest["probes"]:
                silent = p["status"] in ("absent", "partial") and not p["reason"]
                outcome.hold(not silent, f"{limit} descriptors: {p['name']} is {p['status']} and nobody says why")
    outcome.notes.append("exit codes " + ", ".join(f"{c}: {n}" for c, n in sorted(codes.items())))
