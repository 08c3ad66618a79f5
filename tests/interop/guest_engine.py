#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""guest_engine.py EXERCISER KILL_AFTER [NAME...] [--seed N]

Guests of random chains: threads that write, zero, discard, flush and read at random while jobs copy, in one process with imaged's code.
All that is read is compared on the way; qemu-img judges the end.  The same killed at random writes, several times in a row, with a full
file system, with flushes that fail.  SLUICE_TEST_FACTOR: how many times as many chains (1)."""
import argparse
import concurrent.futures
import os
import pathlib
import random
import re
import struct
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import images  # noqa: E402
from engine_judge import Wrong, work_folder  # noqa: E402
from guest_disk import KILLED, GuestDisk  # noqa: E402
from images import MIB  # noqa: E402
from power import judge_dump, read_calls, read_journal  # noqa: E402

ROUNDS = float(os.environ.get("SLUICE_TEST_FACTOR", "1"))


class Bench:
    def __init__(self, exerciser, preload):
        self.exerciser = os.path.abspath(exerciser)
        self.preload = os.path.abspath(preload)

    def preloaded(self, disk, **more):
        return {"LD_PRELOAD": self.preload, "SLUICE_KILL_UNDER": str(disk.leaf), "ASAN_OPTIONS": "verify_asan_link_order=0",
                **{name: str(value) for name, value in more.items()}}


def some_options(draw):
    """Jobs mostly, which finish at times; copy-on-read at times."""
    options = []
    if draw.random() < 0.7:
        options.append("--jobs")
        if draw.random() < 0.5:
            options.append("--finish")
    if draw.random() < 0.4:
        options.append("--keep-on-read")
    return options


def random_chains(bench, folder, seed):
    disk = GuestDisk(folder, bench.exerciser, seed)
    disk.exercise("--steps", 300, "--threads", disk.draw.randrange(1, 6), *some_options(disk.draw))
    disk.judge()
    return disk


def killed(bench, folder, seed):
    """What was answered before a kill is there afterwards."""
    disk = GuestDisk(folder, bench.exerciser, seed, 2 * MIB)
    options = some_options(disk.draw)
    for number in range(6):
        status, text = disk.exercise(
            "--seed", seed * 100 + number, "--steps", 100, *options, accept=(0, KILLED),
            environment=bench.preloaded(disk, SLUICE_KILL_AFTER=disk.draw.choice((disk.draw.randrange(1, 30),
                                                                                  disk.draw.randrange(1, 600))),
                                        SLUICE_KILL_MODE=disk.draw.choice(("before", "after", "half"))))
        if "does not fit" in text:
            raise Wrong(f"the log of the killed process was not believed\n{text[-2000:]}")
        if status == KILLED:
            disk.check_crashed()
    disk.exercise("--threads", 0)
    disk.judge()
    return disk


def full(bench, folder, seed):
    """Who finds no space is told; what was answered stays."""
    disk = GuestDisk(folder, bench.exerciser, seed, 2 * MIB)
    options = some_options(disk.draw)
    for number in range(3):
        room = disk.leaf.stat().st_size + disk.draw.randrange(0, 1 * MIB)
        status, text = disk.exercise(
            "--seed", seed * 100 + number, "--steps", 100, "--may-fill", *[word for word in options if word != "--finish"],
            accept=(0, 1), environment=bench.preloaded(disk, SLUICE_FULL_ABOVE=room))
        # what the log of the last one holds may find no space yet
        if status != 0 and not re.fullmatch(r"(.* (error|info) .*\n)*attaching failed: .*No space left on device\n", text):
            raise Wrong(text[-4000:])
        disk.check_crashed()
    disk.exercise("--seed", seed * 100 + 50, "--steps", 50, *options)
    disk.judge()
    return disk


def flushes_fail(bench, folder, seed):
    """From then on nothing is written until it is attached anew; what was flushed before is there."""
    disk = GuestDisk(folder, bench.exerciser, seed, 2 * MIB)
    log, journal, dump, sign = (folder / name for name in ("calls", "journal", "dump", "sign"))
    disk.exercise("--steps", 200, "--journal", journal, "--dump", dump, "--flushes-fail", sign,
                  environment=bench.preloaded(disk, SLUICE_FLUSH_FAILS=sign, SLUICE_WRITE_LOG=log))
    disk.judge()
    judge_dump(read_journal(journal, until_mark=True), disk.content.read_bytes(), dump.read_bytes())
    check_no_flush_after_failure(log)
    return disk


def check_no_flush_after_failure(log):
    calls = [what for what, _, _, _ in read_calls(log)]
    if "x" not in calls:
        raise Wrong("no flush failed")
    # the next life of the image begins with one that succeeds; another may have been under way
    failed = calls.index("x")
    later = calls[failed + 1:]
    until = later.index("f") if "f" in later else len(later)
    begun = later[:until].count("b") - (1 if "f" in later else 0)
    if begun > 1:
        raise Wrong(f"{begun} flushes were begun after one had failed")


def grows(bench, folder, seed):
    """The counts need a larger table, and guests go on."""
    draw = random.Random(seed)

    class Chain:
        size = 6 * MIB
        story = ["clusters of 512 bytes, counts of 64 bits"]
        files = [images.create_raw(folder / "base.raw", 6 * MIB, [(0, images.pattern(3 * MIB, draw.random()))])]
        leaf = images.create(folder / "leaf.qcow2", 6 * MIB, "base.raw", cluster_size=512, refcount_bits=64)
    Chain.files.append(Chain.leaf)
    disk = GuestDisk(folder, bench.exerciser, seed, chain=Chain)

    def table():
        with open(disk.leaf, "rb") as file:
            return struct.unpack(">QI", file.read(60)[48:60])
    before = table()
    disk.exercise("--steps", 150, "--threads", 4, "--jobs", "--finish")
    disk.judge()
    if table() == before:
        raise Wrong("the refcount table did not grow")
    return disk


# name: chains
TESTS = {random_chains: 150, killed: 60, full: 35, flushes_fail: 30, grows: 4}


def attempt(bench, test, place, seed):
    with tempfile.TemporaryDirectory(dir=place) as folder:
        folder = pathlib.Path(folder)
        try:
            test(bench, folder, seed)
            return None
        except Exception as failure:  # the story belongs to whatever it was
            seen = {"test": test.__name__, "seed": seed}
            if os.environ.get("SLUICE_TEST_KEEP"):
                os.rename(folder, f"/tmp/sluice-{test.__name__}-{seed}")
                folder.mkdir()
            return f"{seen}\n{type(failure).__name__}: {failure}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("exerciser")
    parser.add_argument("preload")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SLUICE_TEST_SEED", "1")))
    options = parser.parse_args()
    bench = Bench(options.exerciser, options.preload)
    failed = 0
    with work_folder() as place, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for test, count in TESTS.items():
            if options.names and test.__name__ not in options.names:
                continue
            begun = time.monotonic()
            seeds = [options.seed * 100_000 + number for number in range(max(1, int(count * ROUNDS)))]
            failures = [text for text in pool.map(lambda seed, test=test: attempt(bench, test, place, seed), seeds) if text]
            failed += len(failures)
            print(f"{'not ok' if failures else 'ok'} {test.__name__}: {len(seeds)} chains, first seed {seeds[0]}, "
                  f"{len(failures)} failed ({time.monotonic() - begun:.1f} s)", flush=True)
            for text in failures[:5]:
                print(text, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
