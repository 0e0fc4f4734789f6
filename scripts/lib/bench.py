"""Times recording and analysing against perf; every ratio is taken within one round of one run."""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

MIB, ROUNDS = 64, 40  # 40 times 64 MiB touched page by page: 655,360 faults
EVENT = "exceptions:page_fault_user"


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


class Bench:
    def __init__(self, args):
        self.args = args
        self.loop = [f"{args.services}/faultloop", MIB, ROUNDS, "seq"]
        self.work = pathlib.Path(args.work)
        self.rows = []

    def ns(self, argv):
        return loop_result(run(argv)[0])["ns_per_fault"]

    def round(self, i):
        w, a = self.work, self.args
        capture = w / f"loop{i}.mtrace"
        perf_g, perf = w / "perf-g.data", w / "perf.data"
        r = {"untraced": self.ns(self.loop)}
        r["mtrace"] = self.ns([a.mtrace, "record", "-o", capture, "--", *self.loop])
        r["perf -g"] = self.ns(["perf", "record", "-q", "-g", "-e", EVENT, "-o", perf_g, "--", *self.loop])
        r["perf"] = self.ns(["perf", "record", "-q", "-e", EVENT, "-o", perf, "--", *self.loop])
        r["untraced again"] = self.ns(self.loop)
        r["capture"] = capture
        r["perf bytes"] = perf_g.stat().st_size
        return r

    def record(self):
        rounds = [self.round(i) for i in range(self.args.runs)]
        base = [min(r["untraced"], r["untraced again"]) for r in rounds]
        added = {k: [r[k] - b for r, b in zip(rounds, base)] for k in ("mtrace", "perf -g", "perf")}
        ratio = [m / g for m, g in zip(added["mtrace"], added["perf -g"])]
        manifest = json.loads((rounds[-1]["capture"] / "manifest.json").read_text())
        account = next(x for x in manifest["accounts"] if x["probe"] == "faults")
        size = tree_bytes(rounds[-1]["capture"] / "faults")
        whole = tree_bytes(rounds[-1]["capture"])
        written = account["written"]
        lost = sum(account["lost"].values())
        cost = manifest["cost"]
        ring = cost["ring_bytes"] or 0
        self.row("untraced fault loop", f"{median(base):,.0f} ns a fault", "-", "-")
        self.row(
            "added by `mtrace record` (stacks, service time)",
            f"{median(added['mtrace']):,.0f} ns a fault",
            f"{median(ratio):.2f} of `perf record -g` ({median(added['perf -g']):,.0f} ns)",
            "at most 0.33",
        )
        self.row("added by `perf record` without stacks", f"{median(added['perf']):,.0f} ns a fault", "-", "-")
        self.row("faults lost by mtrace", f"{lost:,} of {account['seen']:,}", "-", "0")
        per, perf_per = size / written, rounds[-1]["perf bytes"] / (MIB * 256 * ROUNDS)
        self.row(
            "on disk, table `faults`",
            f"{per:.2f} bytes a fault",
            f"1/{perf_per / per:.0f} of `perf record -g` ({perf_per:.0f} bytes)",
            "at most 1/25",
        )
        per = whole / written
        self.row("on disk, the whole capture", f"{per:.2f} bytes a fault", f"1/{perf_per / per:.0f}", "at most 1/25")
        for key, what in (
            ("rss_peak_recording_bytes", "recorder's peak RSS less its ring, while recording"),
            ("rss_peak_bytes", "recorder's peak RSS less its ring, symbols included"),
        ):
            if cost.get(key):
                self.row(what, f"{(cost[key] - ring) / 2**20:.0f} MiB", f"ring: {ring / 2**20:.0f} MiB", "at most 64 MiB")
        cpu = ((cost["cpu_user_ns"] or 0) + (cost["cpu_system_ns"] or 0)) / 1e9
        self.row("recorder's CPU time", f"{cpu:.2f} s for {written:,} faults", f"{cpu / written * 1e9:.0f} ns a fault", "-")
        return rounds[-1]["capture"]

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
    for name in ("mtrace", "decode", "services", "work"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--clean-builds", action="store_true")
    args = parser.parse_args()
    bench = Bench(args)
    bench.analyze(bench.record())
    if args.clean_builds:
        bench.builds()
    bench.print()


if __name__ == "__main__":
    main()
