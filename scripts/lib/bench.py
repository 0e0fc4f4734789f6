"""Times recording and analysing against perf; every ratio is taken within one round of one run."""

import argparse
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import time

from switches import Switches

MIB, ROUNDS = 64, 40  # 40 times 64 MiB touched page by page: 655,360 faults
EVENT = "exceptions:page_fault_user"
COUNT = "tracepoint:exceptions:page_fault_user { @ = count(); }"


def run(argv, **kwargs):
    """Runs a command; returns (stdout, wall seconds, peak RSS in bytes)."""
    start = time.monotonic()
    process = subprocess.Popen([str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs)
    out, err = process.communicate()
    wall = time.monotonic() - start
    if process.returncode not in (0, 5):
        sys.exit(f"{argv}: exit {process.returncode}\n{err.decode()}")
    return out.decode(), wall


def timed(argv, output):
    """Like run, but output to a file and with the peak RSS of the one process, by wait4."""
    with open(output, "wb") as sink:
        start = time.monotonic()
        pid = os.posix_spawn(
            str(argv[0]),
            [str(a) for a in argv],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, sink.fileno(), 1), (os.POSIX_SPAWN_DUP2, sink.fileno(), 2)],
        )
        _, status, usage = os.wait4(pid, 0)
        wall = time.monotonic() - start
    if os.waitstatus_to_exitcode(status) not in (0, 5):
        sys.exit(f"{argv}: status {status}\n{open(output, 'rb').read()[-2000:].decode(errors='replace')}")
    return wall, usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime


def loop_result(out):
    return json.loads([line for line in out.splitlines() if line.startswith("{")][-1])


def tree_bytes(path):
    return sum(f.stat().st_size for f in pathlib.Path(path).rglob("*") if f.is_file())


def median(values):
    return statistics.median(values)


class Floor:
    """The fault probe's hooks with empty programs, attached while the context lives."""

    def __init__(self, program):
        self.argv = [program, f"{program}.bpf.o"]

    def __enter__(self):
        self.process = subprocess.Popen(self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self.process.stdout.readline() != b"ready\n":
            sys.exit("the empty hooks could not be attached")

    def __exit__(self, *_):
        self.process.communicate()


class Bench:
    def __init__(self, args):
        self.args = args
        self.work = pathlib.Path(args.work)
        self.rows = []

    def loop(self, order="seq"):
        return [f"{self.args.services}/faultloop", MIB, ROUNDS, order]

    def ns(self, argv):
        return loop_result(run(argv)[0])["ns_per_fault"]

    def recorded(self, name, mode, order="seq"):
        """Records the loop; returns (ns per fault, the capture)."""
        capture = self.work / f"{name}.mtrace"
        shutil.rmtree(capture, ignore_errors=True)
        argv = [self.args.mtrace, "record", "--faults", mode, "-o", capture, "--", *self.loop(order)]
        return self.ns(argv), capture

    def round(self):
        """Everything once, side by side; the untraced loop at both ends and in the middle."""
        loop, perf_g = self.loop(), self.work / "perf-g.data"
        r = {"untraced": [self.ns(loop)]}
        with Floor(self.args.floor):
            r["floor"] = self.ns(loop)
        r["runs"], _ = self.recorded("runs", "runs")
        r["bpftrace"] = self.ns(["bpftrace", "-q", "-e", COUNT, "-c", " ".join(map(str, loop))])
        r["untraced"].append(self.ns(loop))
        r["every"], _ = self.recorded("every", "every")
        r["perf -g"] = self.ns(["perf", "record", "-q", "-g", "-e", EVENT, "-o", perf_g, "--", *loop])
        r["perf"] = self.ns(["perf", "record", "-q", "-e", EVENT, "-o", self.work / "perf.data", "--", *loop])
        r["untraced"].append(self.ns(loop))
        return r

    def record(self):
        rounds = [self.round() for _ in range(self.args.runs)]
        base = [min(r["untraced"]) for r in rounds]
        added = {k: [r[k] - b for r, b in zip(rounds, base)] for k in rounds[0] if k != "untraced"}

        def ratio(a, b):
            return median([x / y for x, y in zip(added[a], added[b])])

        def ns(key):
            return f"{median(added[key]):,.0f} ns a fault"

        self.row("untraced fault loop", f"{median(base):,.0f} ns a fault", "-", "-")
        self.row("added by the same hooks with empty programs", ns("floor"), "-", "-")
        for key, of, goal in (
            ("runs", "floor", "at most 1.3 of the empty hooks"),
            ("runs", "perf -g", "at most 0.125 of `perf record -g`"),
            ("runs", "bpftrace", "at most 1 of bpftrace's count()"),
            ("every", "perf -g", "at most 0.25 of `perf record -g`"),
        ):
            what = f"added by `mtrace record --faults={key}` (stacks, service time)"
            self.row(what, ns(key), f"{ratio(key, of):.2f} of {self.names[of]} ({ns(of)})", goal)
        self.row("added by `perf record` without stacks", ns("perf"), "-", "-")
        self.sizes()

    names = {"floor": "the empty hooks", "perf -g": "`perf record -g`", "bpftrace": "bpftrace's count()"}

    def sizes(self):
        """Losses, bytes on disk, memory and CPU of the last round's recordings, and of one in random order."""
        per_perf = (self.work / "perf-g.data").stat().st_size / (MIB * 256 * ROUNDS)
        self.recorded("random", "every", "random")
        for name, what, goal in (
            ("runs", "runs, in order", 0.1),
            ("every", "every fault, in order", 3),
            ("random", "every fault, in random order", 12),
        ):
            capture = self.work / f"{name}.mtrace"
            manifest = json.loads((capture / "manifest.json").read_text())
            account = next(x for x in manifest["accounts"] if x["probe"] == "faults")
            written, lost = account["written"], sum(account["lost"].values())
            self.row(f"faults lost, {what}", f"{lost:,} of {account['seen']:,}", "-", "0")
            tables = sum(tree_bytes(capture / t) for t in ("faults", "fault_runs"))
            self.row(
                f"on disk, tables of faults, {what}",
                f"{tables / written:.3f} bytes a fault",
                f"1/{per_perf / (tables / written):,.0f} of `perf record -g` ({per_perf:.0f} bytes)",
                f"at most {goal} bytes and 1/25",
            )
            whole = tree_bytes(capture) / written
            self.row(f"on disk, the whole capture, {what}", f"{whole:.3f} bytes a fault", "-", "-")
            cost = manifest["cost"]
            ring = cost["ring_bytes"] or 0
            for key, of in (("rss_peak_recording_bytes", "while recording"), ("rss_peak_bytes", "symbols included")):
                if cost.get(key):
                    rss = f"{(cost[key] - ring) / 2**20:.0f} MiB"
                    self.row(f"recorder's peak RSS less its ring, {what}, {of}", rss, "-", "at most 64 MiB")
            cpu = ((cost["cpu_user_ns"] or 0) + (cost["cpu_system_ns"] or 0)) / written
            self.row(f"recorder's CPU time, {what}", f"{cpu:,.0f} ns a fault", "start and end included", "-")

    def paced(self, rate=120_000, seconds=10):
        """The recorder's own CPU time and memory at a steady rate of faults that continue no run."""
        for mode in ("runs", "every"):
            capture = self.work / "paced.mtrace"
            shutil.rmtree(capture, ignore_errors=True)
            run([self.args.mtrace, "record", "--faults", mode, "-o", capture, "--", self.args.pace, rate, seconds])
            manifest = json.loads((capture / "manifest.json").read_text())
            window, cost = manifest["window"], manifest["cost"]
            length = window["end_ns"] - window["start_ns"]
            account = next(x for x in manifest["accounts"] if x["probe"] == "faults")
            lost = sum(account["lost"].values())
            what = f"recorder at {account['seen'] / length * 1e9:,.0f} events/s, --faults={mode}"
            share = cost["cpu_recording_ns"] / length
            self.row(f"{what}: CPU", f"{share:.1%} of a core", f"{lost:,} lost", "at most 5% at 120,000/s")
            rss = (cost["rss_peak_recording_bytes"] - cost["ring_bytes"]) / 2**20
            self.row(f"{what}: peak RSS less its ring", f"{rss:.0f} MiB", "-", "at most 64 MiB")

    def budget(self):
        """What a budget leaves: the loop's time beside the untraced one, and the recorder's own account of it."""
        loop = [f"{self.args.services}/faultloop", MIB, 4 * ROUNDS, "seq"]
        for percent in ("3%", "0.1%"):
            capture, ratios = self.work / "budget.mtrace", []
            for _ in range(self.args.runs):
                shutil.rmtree(capture, ignore_errors=True)
                base = self.ns(loop)
                ratios.append(self.ns([self.args.mtrace, "record", "--budget", percent, "-o", capture, "--", *loop]) / base)
            target = json.loads((capture / "manifest.json").read_text())["targets"][0]
            what = f"fault loop with `--budget {percent}`, {target['rusage_minor_faults']:,} faults"
            value = f"{median(ratios) - 1:+.1%} wall time"
            self.row(what, value, "the first 0.1 s at full fidelity included", "within the noise of the budget")

    def analyze(self, capture):
        w, a = self.work, self.args
        perf_wall, mtrace, rss, decode, rows = [], [], [], [], 0
        for i in range(self.args.runs):
            perf_wall.append(timed(["/usr/bin/perf", "script", "-i", w / "perf-g.data"], "/dev/null")[0])
            wall, peak, _ = timed([a.mtrace, "analyze", capture, "-o", w / "report"], w / "out.txt")
            mtrace.append(wall)
            rss.append(peak)
            result = json.loads(run([a.decode, capture])[0])
            decode.append(result["seconds"])
            rows = result["rows"]
        ratio = median([m / p for m, p in zip(mtrace, perf_wall)])
        self.row(
            f"`mtrace analyze` with report, {rows:,} rows",
            f"{median(mtrace):.2f} s",
            f"{ratio:.2f} of `perf script` ({median(perf_wall):.2f} s)",
            "below 1",
        )
        self.row("its peak RSS", f"{max(rss) / 2**20:.0f} MiB", "-", "at most 512 MiB")
        self.row(
            "its cost per row",
            f"{median(mtrace) / rows * 1e9:,.0f} ns",
            f"decoding the Parquet is {median(decode) / median(mtrace):.0%} of it ({median(decode):.2f} s on one thread)",
            "-",
        )

    def builds(self):
        target = self.work / "target"
        env = dict(os.environ, CARGO_TARGET_DIR=str(target))
        argv = ["cargo", "build", "--release", "-q", "-p", "mtrace", "--no-default-features", "--features", "record"]
        _, wall = run(argv, env=env)
        self.row("clean build of the recorder alone", f"{wall:.0f} s", "-", "under 240 s")

    def row(self, what, value, ratio, goal):
        self.rows.append((what, value, ratio, goal))
        print(f"bench: {what}: {value}; {ratio}; goal {goal}", file=sys.stderr)

    def print(self):
        print("# Benchmarks\n")
        print("Printed by `scripts/bench`; ratios are medians of ratios within one round, both sides side by side.\n")
        print(
            f"{time.strftime('%Y-%m-%d')}, kernel {platform.release()}, {os.cpu_count()} CPUs, {self.args.runs} rounds; "
            f"the loop maps {MIB} MiB, touches every page, unmaps, {ROUNDS} times.\n"
        )
        print("| what | measured | ratio | goal |\n|---|---|---|---|")
        for row in self.rows:
            print("| " + " | ".join(row) + " |")


def main():
    parser = argparse.ArgumentParser()
    for name in ("mtrace", "decode", "floor", "pace", "services", "work"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--clean-builds", action="store_true")
    args = parser.parse_args()
    bench = Bench(args)
    bench.record()
    bench.paced()
    bench.budget()
    for row in Switches(args.mtrace, f"{args.services}/wakeups", bench.work).rows(args.runs):
        bench.row(*row)
    bench.analyze(bench.work / "every.mtrace")
    if args.clean_builds:
        bench.builds()
    bench.print()


if __name__ == "__main__":
    main()
