#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""tests/mutants/run.py [--slow] BUILD_FOLDER [NAME...]

Puts one fault at a time into a copy of the source and expects the named test to fail.  A fault is a TOML file beside this
one: `file`, `find` (text that stands there exactly once), `replace`, `test` (a test's name in meson), `about`.  Those whose test is a
script with real processes or images are left out unless --slow is given or they are named.  Prints a line a fault: caught, SURVIVED (the
test passed), STALE (the text is not there once) or BROKEN (it does not build, or the test was skipped)."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parent.parent


def run(arguments, folder, timeout=600, **variables):
    environment = dict(os.environ, SLUICE_BIN=str(folder / "build/stage/usr/bin"), SLUICE_BUILD=str(folder / "build"), **variables)
    return subprocess.run(arguments, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=timeout)


def copy_source(folder):
    names = subprocess.run(["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=TOP, stdout=subprocess.PIPE, check=True).stdout
    for name in names.decode().split("\0"):
        source, target = TOP / name, folder / name
        if not name or not source.is_file():
            continue
        if target.exists() and target.read_bytes() == source.read_bytes():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)  # not its time: what was built meanwhile from its old text would count as newer


def target_of(test):
    """The only program that a test in C needs; None for a script, which needs all of them installed."""
    if test == "simulation":
        return "tests/simulation/simulation"
    for folder, target in (("unit", f"tests/test_{test}"), ("wire", f"tests/wire/test_{test}")):
        if (TOP / f"tests/{folder}/test_{test}.c").exists():
            return target
    return None


def build(folder, test):
    if not (folder / "build/build.ninja").exists():
        done = run(["meson", "setup", "build", "--prefix=/usr"], folder)
        if done.returncode != 0:
            return done
    target = target_of(test)
    done = run(["ninja", "-C", "build", *([target] if target else [])], folder)
    if done.returncode == 0 and not target:
        environment = dict(os.environ, DESTDIR=str(folder / "build/stage"))
        done = subprocess.run(["meson", "install", "-C", "build", "--no-rebuild", "--quiet"], cwd=folder, env=environment,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done


def judge(mutant, folder):
    path = folder / mutant["file"]
    original = path.read_text()
    if original.count(mutant["find"]) != 1:
        return "STALE", f"{mutant['file']} holds the text {original.count(mutant['find'])} times"
    path.write_text(original.replace(mutant["find"], mutant["replace"]))
    try:
        done = build(folder, mutant["test"])
        if done.returncode != 0:
            return "BROKEN", done.stdout.decode(errors="replace")[-2000:]
        with tempfile.TemporaryDirectory(prefix="sl-mutant-") as place:  # a test that fails does not clean up
            done = run(["meson", "test", "-C", "build", "--no-rebuild", mutant["test"]], folder, TMPDIR=place)
        text = done.stdout.decode(errors="replace")
        if "No suitable tests" in text or "No tests defined" in text:
            return "BROKEN", f"no test {mutant['test']}"
        if re.search(r"^Skipped: *[1-9]", text, re.MULTILINE):
            return "BROKEN", f"{mutant['test']} was skipped"
        return ("SURVIVED", "") if done.returncode == 0 else ("caught", "")
    except subprocess.TimeoutExpired:
        return "caught", ""
    finally:
        path.write_text(original)


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--slow"]
    folder, wanted = pathlib.Path(arguments[0]).resolve(), arguments[1:]
    folder.mkdir(parents=True, exist_ok=True)
    copy_source(folder)
    bad = 0
    for path in sorted(HERE.glob("*.toml")):
        mutant = tomllib.loads(path.read_text())
        is_slow = target_of(mutant["test"]) is None
        if path.stem not in wanted if wanted else is_slow and "--slow" not in sys.argv:
            continue
        start = time.monotonic()
        verdict, detail = judge(mutant, folder)
        bad += verdict != "caught"
        print(f"{verdict:9} {path.stem:42} by {mutant['test']:28} {time.monotonic() - start:5.1f} s  {detail}", flush=True)
    return bad != 0


if __name__ == "__main__":
    sys.exit(main())
