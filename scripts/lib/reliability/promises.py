"""What every capture is held against, whatever happened to its recorder."""

import collections
import json
import re
import shutil
import stat

from .lab import manifest_of

# The intervals of losses are about a second; a recorder that was stopped or starved has longer ones, and says so.
LOSS_INTERVAL_NS = 1_500_000_000


class Outcome:
    """What a scenario came to."""

    def __init__(self, lab):
        self.lab = lab
        self.runs = self.captures = self.readable = 0
        self.seen = self.written = 0
        self.lost, self.incomplete = collections.Counter(), collections.Counter()
        self.broken, self.notes = [], []
        self.skipped = None

    def hold(self, promise, what):
        """Notes a broken promise."""
        if not promise:
            self.broken.append(what)
        return bool(promise)

    def equal(self, what, found, expected):
        return self.hold(found == expected, f"{what}: expected {expected}, found {found}")

    def at_least(self, what, found, expected):
        return self.hold(found >= expected, f"{what}: expected at least {expected}, found {found}")

    def complete(self, path, slow=False):
        """A capture that was closed in order: exact books. `slow`: the recorder had no chance of a round a second."""
        c = self._capture(path)
        if c is None:
            return None
        self.equal(f"{path.name}: state", c.manifest["state"], "complete")
        self.hold(not c.open_files(), f"{path.name}: left behind: {c.open_files()}")
        c.check_books(self, slow)
        for a in c.manifest["accounts"]:
            self.seen += a["seen"]
            self.written += a["written"]
            self.lost.update(a["lost"])
            self.incomplete.update(a["incomplete"])
        return c

    def killed(self, path):
        """A capture whose recorder was killed: what is closed is there, and what is missing is said."""
        c = self._capture(path)
        if c is None:
            return None
        self.equal(f"{path.name}: state", c.manifest["state"], "recording")
        c.check_segments(self)
        said = " ".join(c.report["trust"]["damage"] + c.report["trust"]["not_checked"]) if c.report else ""
        began = c.manifest["window"]["start_ns"] is not None
        how_much = r"at most .* after that (is|are) missing" if began else "before all probes were attached"
        self.hold(re.search(how_much, said), f"{path.name}: the report does not say how much is missing: {said[:400]}")
        self.written += c.rows_read()
        self.seen += c.rows_read()
        return c

    def _capture(self, path):
        self.captures += 1
        c = Capture(self.lab, path)
        self.hold(not c.open_to_others(), f"{path.name}: others may read {c.open_to_others()}")
        if not self.hold(c.report, f"{path.name}: analyze ended with {c.code}: {c.said[-500:]}"):
            return None
        self.readable += 1
        return c

    def drop(self, *paths):
        """Captures that nobody looks at again; all are kept while a promise is broken."""
        for path in paths:
            if not self.broken and not self.lab.keep:
                shutil.rmtree(path, ignore_errors=True)


class Capture:
    def __init__(self, lab, path):
        self.lab, self.path = lab, path
        self.manifest = manifest_of(path)
        out = lab.path("report")
        done = lab.mtrace_run("analyze", path, "-o", out)
        self.code, self.said = done.returncode, done.stderr
        self.report = self.markdown = None
        # 0: done; 5: done, something is missing.
        if self.code in (0, 5):
            self.report = json.loads((out / "report.json").read_bytes())
            self.markdown = (out / "report.md").read_text()
        shutil.rmtree(out, ignore_errors=True)

    def account(self, probe):
        return next(a for a in self.manifest["accounts"] if a["probe"] == probe)

    def lost(self, probe):
        return sum(self.account(probe)["lost"].values())

    def rows(self, table):
        return self.lab.rows(self.path, table)

    def read(self, table):
        """Rows that the analyzer read; of faults, the events."""
        return dict(self.report["capture"]["rows"]).get(table, 0)

    def rows_read(self):
        return sum(self.read(a["table"]) for a in self.manifest["accounts"])

    def faults_from_exec(self):
        """What getrusage says of the launched target (and of the children that it waited for) since its exec."""
        target = self.manifest["targets"][0]
        at_exec = {}
        for s in self.rows("samples"):
            if s["source"] == "stat" and s["key"] in ("minflt", "majflt"):
                at_exec.setdefault(s["key"], s["value"])
        return target["rusage_minor_faults"] + target["rusage_major_faults"] - sum(at_exec.values())

    def faults_between(self, said):
        """Faults in the window that a target printed."""

        def within(row):
            return row["pid"] == said["pid"] and said["from"] <= row["ts"] < said["to"]

        runs = sum(r["count"] for r in self.rows("fault_runs") if within(r))
        return runs + sum(1 for r in self.rows("faults") if within(r))

    def open_files(self):
        return [str(p.relative_to(self.path)) for p in self.path.rglob("*.tmp")]

    def open_to_others(self):
        paths = [self.path, *self.path.rglob("*")]
        return [p.name for p in paths if stat.S_IMODE(p.stat().st_mode) != (0o700 if p.is_dir() else 0o600)]

    def check_books(self, outcome, slow):
        name = self.path.name
        losses = self.rows("losses")
        by = collections.Counter()
        for row in losses:
            by[row["probe"], row["reason"]] += row["count"]
            outcome.hold(
                0 < row["dur"] and (slow or row["dur"] < LOSS_INTERVAL_NS), f"{name}: a loss within {row['dur']} ns"
            )
        shown = collections.Counter()
        for probe, reason, count, start, end in self.report["trust"]["losses"]:
            shown[probe, reason] += count
            outcome.hold(start < end, f"{name}: the report's loss of {probe} has no interval")
        for a in self.manifest["accounts"]:
            lost = sum(a["lost"].values())
            outcome.equal(f"{name}: {a['probe']}: written + lost", a["written"] + lost, a["seen"])
            outcome.equal(f"{name}: {a['probe']}: rows that can be read", self.read(a["table"]), a["written"])
            for reason, count in [*a["lost"].items(), *a["incomplete"].items()]:
                outcome.equal(f"{name}: the report's {reason} of {a['probe']}", shown[a["probe"], reason], count)
                # On a full disk the last rows of `losses` are lost like others: the report gives the rest to the whole capture.
                rest = 0 if self.manifest["window"]["end_reason"] not in ("disk full", "write failed") else count
                within = count - rest <= by[a["probe"], reason] <= count
                outcome.hold(within, f"{name}: {reason} of {a['probe']}: {by[a['probe'], reason]} in intervals, {count} in all")
        if any(a["lost"] for a in self.manifest["accounts"]):
            outcome.hold(re.search(r"lost", self.markdown), f"{name}: report.md says nothing of the loss")

    def check_segments(self, outcome):
        """Closed segments have no gap, and per table at most one was open."""
        for folder in (p for p in self.path.iterdir() if p.is_dir()):
            numbers = sorted(int(p.stem) for p in folder.glob("*.parquet"))
            name = f"{self.path.name}/{folder.name}"
            outcome.equal(f"{name}: closed segments", numbers, list(range(1, len(numbers) + 1)))
            outcome.hold(len(list(folder.glob("*.tmp"))) <= 1, f"{name}: more than one open segment")
        unreadable = [d for d in self.report["trust"]["damage"] if "Parquet" in d or "not there" in d]
        outcome.hold(not unreadable, f"{self.path.name}: {unreadable}")

    def last_row_ns(self):
        """The last moment of any event in closed segments; None if there is none."""
        last = [self._last("memory_calls"), self._last("process_events"), self._last("io_calls")]
        return max((t for t in last if t), default=None)

    def _last(self, table):
        return max((r["ts"] for r in self.rows(table)), default=None)
