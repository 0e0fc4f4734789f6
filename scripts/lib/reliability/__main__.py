"""Runs the scenarios one after the other and prints what they came to."""

import argparse
import datetime
import os
import pathlib
import platform
import random
import shutil
import sys
import time
import traceback

from . import scenarios
from .lab import Lab
from .promises import Outcome

HEAD = "| scenario | what | runs | captures readable | events seen | written | lost, by reason | accounted | time |"


def name_of(scenario):
    return scenario.__name__.replace("_", "-")


def parse():
    parser = argparse.ArgumentParser(prog="scripts/reliability")
    for path in ("--mtrace", "--rows", "--services", "--work"):
        parser.add_argument(path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--only", action="append", help="this scenario (repeatable)")
    parser.add_argument("--runs", type=int, help="runs of the scenarios that depend on chance")
    parser.add_argument("--quick", action="store_true", help="the short ones, with few runs")
    parser.add_argument("--keep", action="store_true", help="leave the captures where they are, and say where")
    parser.add_argument("--list", action="store_true", help="only the names")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="of the random moments")
    args = parser.parse_args()
    known = [name_of(s) for s, _ in scenarios.ALL]
    for name in args.only or []:
        if name not in known:
            parser.error(f"no scenario `{name}`; there are: {', '.join(known)}")
    return args


def chosen(args):
    for scenario, quick in scenarios.ALL:
        if (name_of(scenario) in args.only) if args.only else (quick or not args.quick):
            yield scenario


def run(scenario, args):
    lab = Lab(args)
    outcome = Outcome(lab)
    begin = time.monotonic()
    try:
        scenario(lab, outcome)
    except Exception:  # One that fails is a broken promise; the others still run.
        outcome.broken.append(traceback.format_exc(limit=-3))
    finally:
        lab.clean()
    outcome.seconds = time.monotonic() - begin
    return outcome


def counts(reasons):
    return ", ".join(f"{n:,} {reason}" for reason, n in sorted(reasons.items()))


def line(scenario, o):
    if o.skipped:
        return f"| {name_of(scenario)} | {scenario.__doc__} | skipped: {o.skipped} | - | - | - | - | - | - |"
    lost = counts(o.lost) or "0"
    if o.incomplete:
        lost += f"; incomplete: {counts(o.incomplete)}"
    note = "".join(f"; {n}" for n in o.notes)
    return (
        f"| {name_of(scenario)} | {scenario.__doc__}{note} | {o.runs} | {o.readable} of {o.captures} | {o.seen:,} "
        f"| {o.written:,} | {lost} | {'**no**' if o.broken else 'yes'} | {o.seconds:.0f} s |"
    )


def intro(args):
    print("# Reliability\n")
    print("Printed by `scripts/reliability`: what is done to recordings, and what is left of them.\n")
    print(
        f"{datetime.date.today()}, kernel {platform.release()}, {os.cpu_count()} CPUs, seed {args.seed}"
        f"{', quick' if args.quick else ''}. *Captures readable*: `mtrace analyze` ended with 0 or 5. *Accounted*: every "
        "promise held: seen = written + lost per table and reason, the rows can be read, the losses stand as intervals in "
        "the report, independent counts (getrusage, known numbers of calls) agree, and a capture of a killed recorder "
        "lacks at most what its last segment would have held and says how much that is.\n"
    )
    print(HEAD + "\n" + "|---" * (HEAD.count("|") - 1) + "|", flush=True)


def why_not(args):
    """Why nothing can be recorded here; None if it can."""
    lab = Lab(args)
    recorder = lab.record("--", "/bin/true")
    # 4: this host or user cannot record.
    refused = recorder.said if recorder.wait() == 4 else None
    lab.clean()
    forget(args)
    return refused


def forget(args):
    """Removes what scenarios have left in the work folder."""
    for path in pathlib.Path(args.work).glob("0*"):
        remove(path)


def main():
    args = parse()
    if args.list:
        print("\n".join(name_of(s) for s, _ in scenarios.ALL))
        return 0
    if os.geteuid():
        print("reliability: skipped: mounts, limits and recording need root", file=sys.stderr)
        return 77
    if refused := why_not(args):
        print(f"reliability: skipped: {refused}", file=sys.stderr)
        return 77
    intro(args)
    total, failed, begin = Outcome(None), [], time.monotonic()
    for scenario in chosen(args):
        print(f"reliability: {name_of(scenario)}", file=sys.stderr, flush=True)
        o = run(scenario, args)
        print(line(scenario, o), flush=True)
        for what in o.broken[:10]:
            print(f"reliability: {name_of(scenario)}: BROKEN: {what}", file=sys.stderr, flush=True)
        if o.broken:
            failed.append(name_of(scenario))
        total.runs += o.runs
        total.captures += o.captures
        total.readable += o.readable
        total.seen += o.seen
        total.written += o.written
        total.lost.update(o.lost)
        if not args.keep:
            forget(args)
    print(
        f"\nAll: {total.runs} runs, {total.readable} of {total.captures} captures readable, {total.seen:,} events seen = "
        f"{total.written:,} written + {sum(total.lost.values()):,} lost; "
        f"{'every promise held' if not failed else 'broken: ' + ', '.join(failed)}; "
        f"{time.monotonic() - begin:.0f} s."
    )
    return 1 if failed else 0


def remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
