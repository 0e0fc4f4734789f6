"""What a capture must not hold, and where it must not be written."""

import os
import subprocess

SECRETS = ("hunter2-argv", "hunter2-env", "hunter2-stdin")


def secrets(lab, outcome):
    """secrets in arguments, environment and data of the target and its children: none is in any table or report"""
    outcome.runs += 1
    script = 'echo "$HIDDEN" hunter2-stdin | cat >/dev/null; /bin/true "$1" "$HIDDEN"; exec /bin/true "$1"'
    recorder = lab.record(
        "--", "sh", "-c", script, "sh", SECRETS[0], env={**os.environ, "HIDDEN": SECRETS[1]},
    )
    outcome.equal("exit code", recorder.wait(), 0)
    capture = outcome.complete(recorder.capture)
    if not capture:
        return
    tables = [p.name for p in recorder.capture.iterdir() if p.is_dir()]
    outcome.at_least("tables", len(tables), 6)
    rows = {t: "".join(map(str, capture.rows(t))) for t in tables}
    texts = {**rows, "manifest.json": str(capture.manifest), "report.json": str(capture.report),
             "report.md": capture.markdown}
    for where, text in texts.items():
        outcome.hold(text, f"{where} is empty: nothing was looked at")
        found = [s for s in SECRETS if s in text]
        outcome.hold(not found, f"{where} holds {found}")
    outcome.hold("/bin/true" in rows["process_events"] or "/usr/bin/true" in rows["process_events"], "no path of a program")


def links_of_others(lab, outcome):
    """a symbolic link of another user in a folder where everybody may write, as the output and on the way to it"""
    shared, theirs = lab.path("shared"), lab.path("theirs")
    shared.mkdir()
    theirs.mkdir()
    shared.chmod(0o1777)
    theirs.chmod(0o777)
    for name, to in (("out.mtrace", theirs / "out.mtrace"), ("way", theirs), ("there.mtrace", theirs)):
        (shared / name).symlink_to(to)
        os.chown(shared / name, 65534, 65534, follow_symlinks=False)
    for output in (shared / "out.mtrace", shared / "way" / "x.mtrace", shared / "there.mtrace"):
        outcome.runs += 1
        recorder = lab.record("--", "/bin/true", output=output)
        outcome.equal(f"exit code for {output.name}", recorder.wait(), 1)
        outcome.hold(recorder.said.strip(), "no word")
        outcome.equal("written to", list(theirs.iterdir()), [])
