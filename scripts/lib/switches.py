"""What recording costs per context switch: of a target, and of everybody else on the host."""

import json
import re
import signal
import statistics
import subprocess
import sys
import time

SWITCHES = 400_000
# Two threads that wake each other 400,000 times on one CPU: nothing else happens, and no sleep reaches the minimum.
ONLY_OFF_CPU = ("memory_calls", "refusals", "io_calls", "faults", "reclaims", "gc_events")


class Switches:
    def __init__(self, mtrace, pingpong, work):
        # Above everything else on the host, whose own switches would be counted else.
        self.pingpong = ["chrt", "-r", "1", str(pingpong), "pingpong", str(SWITCHES)]
        self.mtrace, self.work = str(mtrace), work

    def ns(self, before=()):
        done = subprocess.run([*before, *self.pingpong], check=True, capture_output=True, text=True)
        return json.loads(done.stdout.splitlines()[-1])["ns"]

    def record(self, name, *flags):
        output = self.work / f"{name}.mtrace"
        subprocess.run(["rm", "-rf", str(output)], check=True)
        return [self.mtrace, "record", "-o", str(output), *flags, "--"]

    def beside(self):
        """While something else is recorded."""
        recorder = subprocess.Popen([*self.record("beside"), "sleep", "600"], stderr=subprocess.DEVNULL)
        manifest = self.work / "beside.mtrace" / "manifest.json"
        while not (manifest.exists() and re.search(r'"start_ns": \d', manifest.read_text())):
            if recorder.poll() is not None:
                sys.exit("mtrace record ended before it began")
            time.sleep(0.05)
        ns = self.ns()
        recorder.send_signal(signal.SIGINT)
        recorder.wait()
        return ns

    def round(self):
        without = [word for probe in ONLY_OFF_CPU for word in ("--without", probe)]
        return {
            "untraced": self.ns(),
            "off_cpu": self.ns(self.record("off_cpu", *without)),
            "all": self.ns(self.record("all")),
            "perf": self.ns(["perf", "sched", "record", "-o", str(self.work / "sched.data"), "--"]),
            "beside": self.beside(),
        }

    def rows(self, runs):
        """(what, measured, ratio, goal) for the table."""
        rounds = [self.round() for _ in range(runs)]
        added = {k: statistics.median(r[k] - r["untraced"] for r in rounds) for k in rounds[0]}
        perf = f"{statistics.median((r['off_cpu'] - r['untraced']) / max(r['perf'] - r['untraced'], 1) for r in rounds):.2f}"
        yield ("untraced context switch", f"{statistics.median(r['untraced'] for r in rounds):,.0f} ns", "-", "-")
        yield (
            "added to a switch of a target by the probe `off_cpu` (wakers, stacks)",
            f"{added['off_cpu']:,.0f} ns",
            f"{perf} of `perf sched record` ({added['perf']:,.0f} ns, no stacks)",
            "-",
        )
        yield ("added to it by all probes (its futex calls included)", f"{added['all']:,.0f} ns", "-", "-")
        yield ("added to a switch of another process by all probes", f"{added['beside']:,.0f} ns", "-", "-")
