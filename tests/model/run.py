#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Checks docs/model/lease.pml with spin: no error as it is, and an error with each seeded fault.  Two at a time."""
import concurrent.futures
import pathlib
import subprocess
import sys
import tempfile
import time

MODEL = pathlib.Path(__file__).resolve().parent.parent.parent / "docs/model/lease.pml"
MUTANTS = 12
MEMORY_MB = 6000


def check(mutant):
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for command in (["spin", "-a", f"-DMUTANT={mutant}", str(MODEL)],
                        ["gcc", "-O2", "-DSAFETY", "-DCOLLAPSE", f"-DMEMLIM={MEMORY_MB}", "-o", "pan", "pan.c"]):
            done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            if done.returncode != 0:
                return mutant, False, done.stdout.decode(), 0
        done = subprocess.run(["./pan", "-E", "-m1000000"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        text = done.stdout.decode()
    complete = "errors: 0" in text and "max search depth too small" not in text and "Search not completed" not in text
    found = "assertion violated" in text
    right = complete if mutant == 0 else found
    states = next((line.split()[0] for line in text.splitlines() if "states, stored" in line), "?")
    print(f"{'as it is' if mutant == 0 else f'fault {mutant}':10} {'no error' if complete else 'error found' if found else 'UNDECIDED'}"
          f"  {states} states  {time.monotonic() - start:.1f} s", flush=True)
    return mutant, right, text, states


def main():
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(check, range(MUTANTS + 1)))
    for mutant, right, text, _ in results:
        if not right:
            print(f"WRONG: {'the model' if mutant == 0 else f'fault {mutant}'}\n{text[-1500:]}")
    return not all(right for _, right, _, _ in results)


if __name__ == "__main__":
    sys.exit(main())
