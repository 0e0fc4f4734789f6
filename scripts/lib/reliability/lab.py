"""Where the scenarios work: recorders, targets and small filesystems that are gone when a scenario ends."""

import json
import os
import pathlib
import random
import resource
import signal
import subprocess
import time

# Longer than anything takes on a busy machine; what is not done by then hangs.
PATIENCE = 120


class Lab:
    def __init__(self, args):
        self.mtrace, self.rows_tool = args.mtrace, args.rows
        self.services, self.work = pathlib.Path(args.services), pathlib.Path(args.work)
        self.crowd = self.work / "crowd"
        self.quick, self.runs_asked, self.keep = args.quick, args.runs, args.keep
        self.random = random.Random(args.seed)
        self.number = 0
        self.processes, self.mounts = [], []

    def runs(self, usual, quick):
        """How often a scenario with chance in it is run."""
        return self.runs_asked or (quick if self.quick else usual)

    def path(self, name):
        self.number += 1
        return self.work / f"{self.number:04}-{name}"

    def spawn(self, *argv, **kwargs):
        """A process of its own session, ended with the scenario."""
        argv = [str(a) for a in argv]
        process = subprocess.Popen(argv, start_new_session=True, **kwargs)
        self.processes.append(process)
        return process

    def talker(self, *argv):
        """A target that is talked to: its output is read line by line, lines are sent to it."""
        return self.spawn(self.crowd, *argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def record(self, *argv, output=None, limits=(), under=(), **kwargs):
        """Starts a recorder; `limits` are (RLIMIT, value), `under` is a command that executes it."""
        return Recorder(self, output or self.path("capture.mtrace"), argv, limits, under, kwargs)

    def mtrace_run(self, *argv):
        argv = [self.mtrace, *(str(a) for a in argv)]
        return subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=PATIENCE)

    def rows(self, capture, table):
        """The rows of a table, as they are on disk."""
        out = subprocess.run([self.rows_tool, capture, table], capture_output=True, timeout=PATIENCE, check=True)
        return [json.loads(line) for line in out.stdout.splitlines()]

    def small_disk(self, size):
        at = self.path("disk")
        at.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", at], check=True)
        self.mounts.append(at)
        return at

    def clean(self):
        for process in self.processes:
            end_session(process)
        for mount in self.mounts:
            subprocess.run(["umount", "-l", mount], check=False)
        self.processes, self.mounts = [], []


def end_session(process):
    """Kills what a process that we started has left in its group, stopped or not."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()
    process.wait(PATIENCE)


class Recorder:
    def __init__(self, lab, capture, argv, limits, under, kwargs):
        self.capture, self.said_in = pathlib.Path(capture), lab.path("said")
        self.out = lab.path("out")

        def before_exec():
            for which, value in limits:
                resource.setrlimit(which, (value, value))

        argv = [*under, lab.mtrace, "record", "-o", self.capture, *argv]
        with open(self.said_in, "wb") as said, open(self.out, "wb") as out:
            self.process = lab.spawn(
                *argv, stdin=subprocess.DEVNULL, stdout=out, stderr=said, preexec_fn=before_exec, **kwargs
            )
        self.started = time.monotonic()

    @property
    def said(self):
        return self.said_in.read_text(errors="replace")

    def target_says(self):
        """The JSON that a launched target printed last."""
        lines = [line for line in self.out.read_text(errors="replace").splitlines() if line.startswith("{")]
        return json.loads(lines[-1])

    def until(self, condition, what):
        """Waits until a condition holds; False if the recorder ended first."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if condition():
                return True
            if self.process.poll() is not None:
                return condition()
            time.sleep(0.01)
        raise TimeoutError(f"{what} within {PATIENCE} s")

    def until_recording(self):
        return self.until(lambda: (manifest_of(self.capture) or {}).get("window", {}).get("start_ns"), "no recording")

    def signal(self, which):
        self.process.send_signal(which)

    def wait(self):
        """Its exit code; a negative one is the signal that killed it."""
        return self.process.wait(PATIENCE)

    def stop(self):
        self.signal(signal.SIGINT)
        return self.wait()

    def kill(self):
        """SIGKILL to the recorder alone; CLOCK_MONOTONIC ns of it, or None if it had ended before."""
        if self.process.poll() is not None:
            return None
        at = time.monotonic_ns()
        self.signal(signal.SIGKILL)
        self.process.wait(PATIENCE)
        return at

    def end_target(self):
        end_session(self.process)


def manifest_of(capture):
    try:
        return json.loads((pathlib.Path(capture) / "manifest.json").read_bytes())
    except (OSError, ValueError):
        return None
