"""Real daemons under load, recorded by --pid, against independent counts. See scripts/record-daemons.

The daemon is stopped (SIGSTOP, with no request under way) while the recorder attaches and again before it detaches: in
between every fault, collection and safepoint has to be in the capture, and nothing else. Where that is not so this
fails; tolerances are for durations only, and each says why.
"""

import argparse
import bisect
import collections
import http.client
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time


def fail(message):
    sys.exit(f"record-daemons: {message}")


def wait_for(what, done, seconds=60):
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            fail(f"{what} did not happen within {seconds} s")
        time.sleep(0.02)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def read(path):
    with open(path, errors="replace") as f:
        return f.read()


def listening(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


class Daemon:
    """A daemon that runs while the block does."""

    def __init__(self, argv, env, port, log, output):
        self.port, self.log, self.argv = port, log, argv
        self.process = subprocess.Popen(argv, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        self.pid = self.process.pid

    def __enter__(self):
        wait_for(f"{self.argv[0]} listening on port {self.port}", lambda: self.process.poll() is not None or listening(self.port))
        if self.process.poll() is not None:
            fail(f"{self.argv[0]} ended: {read(self.log)[-2000:]}")
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def threads_are(self, state):
        for tid in os.listdir(f"/proc/{self.pid}/task"):
            if read(f"/proc/{self.pid}/task/{tid}/stat").rpartition(")")[2].split()[0] != state:
                return False
        return True

    def stop(self):
        time.sleep(0.5)  # whatever a request has set off is over
        self.process.send_signal(signal.SIGSTOP)
        wait_for("the stop of all threads", lambda: self.threads_are("T"))

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def faults(self):
        """Minor and major faults of all threads so far: fields 10 and 12 of proc(5)'s stat."""
        fields = read(f"/proc/{self.pid}/stat").rpartition(")")[2].split()
        return int(fields[7]) + int(fields[9])

    def rss_bytes(self):
        return int(re.search(r"VmRSS:\s+(\d+) kB", read(f"/proc/{self.pid}/status"))[1]) * 1024

    def mappings(self):
        """Begin and end of each, but those of the kernel that a replay cannot know."""
        lines = [line.split() for line in read(f"/proc/{self.pid}/maps").splitlines()]
        return [tuple(int(n, 16) for n in line[0].split("-")) for line in lines if line[-1] not in ("[vsyscall]",)]


def load(port, paths, seconds, workers=2):
    """Requests as fast as they come back, over connections that stay open; how many there were."""
    until, counts = time.monotonic() + seconds, []

    def work(offset):
        connection, n = http.client.HTTPConnection("127.0.0.1", port, timeout=30), 0
        for i in itertools.count(offset):
            if time.monotonic() > until:
                break
            connection.request("GET", paths[i % len(paths)].replace("{i}", str(i)))
            connection.getresponse().read()
            n += 1
        connection.close()
        counts.append(n)

    threads = [threading.Thread(target=work, args=(i * 7,)) for i in range(workers)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if len(counts) != workers:
        fail("a client failed; see above")
    return sum(counts)


class Capture:
    def __init__(self, args, path):
        self.args, self.path = args, path
        self.manifest = json.loads(read(f"{path}/manifest.json"))

    def rows(self, table):
        out = subprocess.run([self.args.rows, self.path, table], check=True, capture_output=True, text=True).stdout
        return [json.loads(line) for line in out.splitlines()]

    def account(self, probe):
        return next(a for a in self.manifest["accounts"] if a["probe"] == probe)


class Table:
    """Every line of the result; `ok` is None where there is nothing to compare with."""

    def __init__(self, name):
        self.name, self.lines = name, []

    def exact(self, what, ours, theirs, source):
        self.lines.append((what, ours, theirs, source, ours == theirs))

    def about(self, what, ours, theirs, source, least, most):
        self.lines.append((what, ours, theirs, source, least <= ours <= most))

    def show(self, what, value):
        self.lines.append((what, value, "", "", None))

    def print(self):
        print(f"\n{self.name}\n")
        print("| | recorded | independent | from | |\n|---|---|---|---|---|")
        for what, ours, theirs, source, ok in self.lines:
            print(f"| {what} | {ours} | {theirs} | {source} | {'' if ok is None else 'equal' if ours == theirs else 'agrees' if ok else 'DIFFERS'} |")
        return all(ok is not False for *_, ok in self.lines)


def record(args, daemon, paths, path):
    """Records the daemon under load; the capture and what was read beside it."""
    load(daemon.port, paths, 3)
    daemon.stop()
    seen = {"log_begin": len(read(daemon.log)), "faults_before": daemon.faults()}
    recorder = subprocess.Popen([args.mtrace, "record", "-o", path, "--io-calls", str(100_000 * args.seconds), "--pid", str(daemon.pid)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def attached():
        if recorder.poll() is not None:
            if recorder.returncode == 4:
                print(f"skipped: {recorder.stderr.read()}", file=sys.stderr)
                sys.exit(77)
            fail(f"the recorder ended: {recorder.stderr.read()}")
        try:
            return json.loads(read(f"{path}/manifest.json"))["window"]["start_ns"] is not None
        except (FileNotFoundError, json.JSONDecodeError):
            return False

    wait_for("the attach", attached)
    seen["faults_attached"] = daemon.faults()
    daemon.go_on()
    seen["requests"] = load(daemon.port, paths, args.seconds)
    daemon.stop()
    seen.update(faults=daemon.faults(), rss=daemon.rss_bytes(), maps=daemon.mappings(), log=read(daemon.log)[seen["log_begin"]:])
    recorder.send_signal(signal.SIGINT)
    said = recorder.communicate()[1]
    if recorder.returncode != 0:
        fail(f"the recorder ended with {recorder.returncode}: {said}")
    seen["faults_detached"] = daemon.faults()
    daemon.go_on()
    return Capture(args, path), seen


def compare(args, table, daemon, capture, seen):
    """What holds for every daemon; the report."""
    table.show("requests", seen["requests"])
    table.exact("page faults", capture.account("faults")["written"], seen["faults"] - seen["faults_before"], "/proc/PID/stat minflt + majflt")
    table.exact("of these while it was stopped", 0, seen["faults_attached"] - seen["faults_before"] + seen["faults_detached"] - seen["faults"], "the same, around attach and detach")
    lost = sum(sum(a["lost"].values()) for a in capture.manifest["accounts"])
    table.exact("events lost", lost, 0, "must be none")
    rss = [s["value"] for s in capture.rows("samples") if s["source"] == "statm" and s["key"] == "resident_bytes"]
    table.exact("RSS at the end", rss[-1] if rss else None, seen["rss"], "/proc/PID/status")
    maps = capture.rows("maps")
    end = max(m["ts"] for m in maps)
    ends = [(m["start_addr"], m["end_addr"]) for m in maps if m["ts"] == end and m["path"] != "[vsyscall]"]
    table.exact("mappings at the end", len(ends), len(seen["maps"]), "/proc/PID/maps")
    table.exact("differences of these", len(set(ends) ^ set(seen["maps"])), 0, "/proc/PID/maps")

    report = f"{capture.path}.report"
    out = subprocess.run([args.mtrace, "analyze", capture.path, "-o", report], capture_output=True, text=True)
    if out.returncode not in (0, 5):
        fail(f"analyze ended with {out.returncode}: {out.stderr}")
    report = json.loads(read(f"{report}/report.json"))
    certificate = [c for c in report["trust"]["replay"] if c["snapshot"] == "end"][-1]
    table.exact("replayed bytes that agree", certificate["agreeing_bytes"], certificate["snapshot_bytes"], "/proc/PID/maps at the end")
    for difference in [] if certificate["equal"] else certificate["differences"]:
        table.show("replay", difference)
    named, frames = report["trust"]["frames_named"]
    table.show("frames with names", f"{named} of {frames} ({100 * named / max(frames, 1):.1f} %)")
    table.show("verdict", f"{report['verdict']['kind']}: {report['verdict']['sentence']}")
    return report


def overlap(inner, outer):
    """How much of the intervals `inner` lies in `outer`, thread by thread."""
    by_thread = collections.defaultdict(list)
    for o in sorted(outer, key=lambda o: o["ts"]):
        by_thread[o["tid"]].append((o["ts"], o["ts"] + o["dur"]))
    total = 0
    for m in inner:
        stretches, end = by_thread[m["tid"]], m["ts"] + m["dur"]
        # They do not overlap each other: the one before the first that begins inside may reach in.
        at = max(0, bisect.bisect_left(stretches, (m["ts"], 0)) - 1)
        while at < len(stretches) and stretches[at][0] < end:
            total += max(0, min(stretches[at][1], end) - max(stretches[at][0], m["ts"]))
            at += 1
    return total


def prometheus(args, work):
    port = free_port()
    config, log = f"{work}/prometheus.yml", f"{work}/prometheus.log"
    with open(config, "w") as f:
        f.write(f"global: {{scrape_interval: 1s}}\nscrape_configs: [{{job_name: self, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]\n")
    argv = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={work}/tsdb", f"--web.listen-address=127.0.0.1:{port}"]
    paths = [
        "/metrics",
        "/api/v1/query?query=sum(rate(prometheus_http_requests_total%5B1m%5D))by(handler)",
        "/api/v1/query_range?query=go_memstats_heap_alloc_bytes&start={start}&end={end}&step=1",
        "/api/v1/series?match%5B%5D=%7Bjob%3D%22self%22%7D",
    ]
    now = int(time.time())
    paths = [p.replace("{start}", str(now - 300)).replace("{end}", str(now + 300)) for p in paths]
    with open(log, "wb") as output, Daemon(argv, {"GODEBUG": "gctrace=1"}, port, log, output) as daemon:
        capture, seen = record(args, daemon, paths, f"{work}/prometheus.mtrace")
        table = Table(f"prometheus ({len(read('/proc/%d/maps' % daemon.pid).splitlines())} mappings, {args.seconds} s)")
        report = compare(args, table, daemon, capture, seen)
    traces = [line for line in seen["log"].splitlines() if re.match(r"gc \d+ @", line)]
    events = collections.Counter(e["event"] for e in capture.rows("gc_events"))
    for event in ("cycle_start", "mark_termination", "sweep"):
        table.exact(f"GC {event}", events[event], len(traces), "GODEBUG=gctrace=1")
    table.exact("cycles in the report", len(report["gc"]["cycles"]), len(traces), "GODEBUG=gctrace=1")
    memory = capture.rows("go_memory")
    assists = [m for m in memory if m["event"] == "mark_assist" and m["dur"] is not None]
    incomplete = capture.account("go_memory")["incomplete"]
    table.exact("Go functions whose entry was not seen", incomplete.get("no_start", 0), 0, "every return has one")
    ignored = capture.account("go_memory")["ignored"].get("below_minimum_ns", 0)
    ours = (sum(m["dur"] for m in assists) + ignored) / 1e6
    theirs = sum(float(re.search(r"clock, [^/+]+\+([^/]+)/", line)[1]) for line in traces)
    # Two digits in the trace. Ours encloses theirs: two probes of some µs each, where the thread may lose its CPU.
    off_cpu = overlap(assists, capture.rows("off_cpu")) / 1e6
    least = (ours - off_cpu - 0.01 * len(assists) - 2) / 1.05
    table.about("mark assist, ms", round(ours, 1), round(theirs, 1), "GODEBUG=gctrace=1", 0.95 * theirs - 1, float("inf") if least <= theirs else 0)
    table.show("of it without a CPU, ms", round(off_cpu, 1))
    advised = sum(c["len_bytes"] for c in capture.rows("memory_calls") if c["call"] == "madvise" and c["prot_or_advice"] == 4)
    table.exact("scavenged bytes", sum(m["bytes"] for m in memory if m["event"] == "scavenge"), advised, "madvise(MADV_DONTNEED) seen")
    settings = {s["key"]: s["value"] for s in capture.rows("runtimes")}
    table.exact("GODEBUG", settings.get("GODEBUG"), "gctrace=1", "as it was started")
    table.exact("names of its own functions", any("github.com/prometheus/" in (s["function"] or "") for s in capture.rows("symbols")), True, "the function table of its stripped binary")
    return table.print()


def jvm(args, work):
    port, log = free_port(), f"{work}/jvm.log"
    argv = ["java", "-Xmx64m", "-XX:+UseSerialGC", "-Xlog:gc,safepoint", f"{args.services}/AllocServer.java", str(port)]
    with open(log, "wb") as output, Daemon(argv, {}, port, log, output) as daemon:
        capture, seen = record(args, daemon, ["/?{i}"], f"{work}/jvm.mtrace")
        table = Table(f"java, AllocServer, -Xmx64m -XX:+UseSerialGC ({args.seconds} s)")
        report = compare(args, table, daemon, capture, seen)
    events = capture.rows("jvm_events")
    safepoints = [e for e in events if e["event"] == "safepoint"]
    logged = re.findall(r"Safepoint \"\w+\".* Total: +(\d+) ns", seen["log"])
    table.exact("safepoints", len(safepoints), len(logged), "-Xlog:safepoint")
    # Our probes lie within the JVM's own measurement or around it, by a few µs.
    ours, theirs = sum(e["dur"] for e in safepoints) / 1e6, sum(map(int, logged)) / 1e6
    slack = 0.05 * theirs + 0.05 * len(logged)
    table.about("time in safepoints, ms", round(ours, 1), round(theirs, 1), "-Xlog:safepoint", theirs - slack, theirs + slack)
    for manager, kind in (("Copy", "Pause Young"), ("MarkSweepCompact", "Pause Full")):
        found = sum(1 for e in events if e["event"] == "pool" and e["name"] == manager and e["pool"] == "Metaspace")
        table.exact(f"collections by {manager}", found, len(re.findall(rf"GC\(\d+\) {kind}", seen["log"])), f"-Xlog:gc, {kind}")
        in_report = sum(1 for c in report["gc"]["cycles"] if c["collector"] == manager)
        table.exact("the same in the report", in_report, found, "jvm_events")
    freed = [re.search(r"(\d+)M->(\d+)M", line) for line in seen["log"].splitlines() if "Pause" in line]
    theirs = sum(int(m[1]) - int(m[2]) for m in freed if m)
    cycles = [c["heap_bytes"] for c in report["gc"]["cycles"] if c["heap_bytes"]]
    ours = sum(before - after for before, after in cycles) / (1 << 20)
    # The log rounds each number to whole MiB.
    table.about("freed by collections, MiB", round(ours, 1), theirs, "-Xlog:gc", theirs - len(freed), theirs + len(freed))
    return table.print()


DAEMONS = {"prometheus": prometheus, "jvm": jvm}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mtrace", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--services", required=True)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--keep", help="folder for captures and reports")
    parser.add_argument("daemons", nargs="*", choices=[[], *DAEMONS], default=[])
    args = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as work:
        if args.keep:
            os.makedirs(args.keep, exist_ok=True)
            work = args.keep
        for name in args.daemons or DAEMONS:
            good &= DAEMONS[name](args, work)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
