#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""guest_power.py EXERCISER KILL_AFTER [--seed N] [--chains N] [--cuts N]

Power cut while guests write and jobs copy.  All writes of a process to its leaf are recorded, and what its guests asked; then images are
made as a disk may hold them at a cut, at each flush and between (tests/support/power.py), and opened by a process that has no log of
writes, or one of another boot.  qemu-img check finds no error, each sector holds what was promised, also without the layers that the
header does not need any more, and once it was opened and closed nothing leaks.  SLUICE_TEST_FACTOR: how many times as many chains (1)."""
import argparse
import concurrent.futures
import os
import pathlib
import random
import re
import shutil
import struct
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from engine_judge import Wrong, work_folder  # noqa: E402
from guest_disk import KILLED, GuestDisk  # noqa: E402
from images import KIB  # noqa: E402
from power import Recording, judge_dump, position_of, read_journal  # noqa: E402

ROUNDS = float(os.environ.get("SLUICE_TEST_FACTOR", "1"))


class Cuts:
    """One recorded run of a random chain, and the states in which the power can have left its leaf."""

    def __init__(self, folder, exerciser, preload, seed):
        self.folder = folder
        self.disk = GuestDisk(folder, exerciser, seed, 700 * KIB)
        self.draw = self.disk.draw
        self.start = self.disk.leaf.read_bytes()
        self.original = self.disk.content.read_bytes()
        self.away = folder / "away"
        self.away.mkdir()
        self.dump = folder / "dump"
        self.stale_log = None
        self.record(preload)

    def record(self, preload):
        calls, journal = self.folder / "calls", self.folder / "journal"
        options = ["--steps", self.draw.randrange(20, 90), "--threads", self.draw.randrange(1, 5), "--journal", journal]
        options += self.draw.choice(([], ["--jobs"], ["--jobs", "--finish"], ["--jobs", "--finish"]))
        options += self.draw.choice(([], [], ["--keep-on-read"]))
        if self.draw.random() < 0.5:
            options.append("--die")
        self.disk.story.append(str(options))
        environment = {"LD_PRELOAD": preload, "SLUICE_KILL_UNDER": str(self.disk.leaf), "SLUICE_WRITE_LOG": str(calls),
                       "ASAN_OPTIONS": "verify_asan_link_order=0"}
        self.disk.exercise(*options, accept=(KILLED if "--die" in options else 0,), environment=environment)
        self.recording = Recording(calls, self.start)
        self.journal = read_journal(journal)
        for log in self.disk.logs():
            self.stale_log = (log, log.read_bytes())
            log.unlink()

    def remove_layers_not_needed(self):
        """By what the header says: names of layers above the new backing file, or all."""
        backing = backing_of(self.disk.leaf)
        names = [layer.name for layer in self.disk.layers]
        needed = 0
        if backing:
            needed = names.index(os.path.basename(backing)) + 1
        for number, layer in enumerate(self.disk.layers):
            if number >= needed:
                layer.rename(self.away / layer.name)
        return len(names) - needed

    def put_layers_back(self):
        for path in self.away.iterdir():
            path.rename(self.folder / path.name)

    def judge(self, count):
        """The state after a cut when so many calls had happened: how many layers it does not need."""
        disk = self.disk
        with open(disk.leaf, "r+b") as file:  # the same inode: a log is found by it
            file.truncate(0)
            file.write(self.recording.cut(count, self.draw))
        if self.stale_log and self.draw.random() < 0.6:
            self.stale_log[0].write_bytes(self.stale_log[1])
        dropped = self.remove_layers_not_needed()
        disk.check_crashed()
        _, text = disk.exercise("--dump", self.dump, "--threads", 0, "--boot", "next")
        if "took over" in text or "does not fit" in text:
            raise Wrong(f"a log of another boot was looked at: {text}")
        judge_dump(self.journal, self.original, self.dump.read_bytes(), position_of(self.recording, count))
        disk.check()
        disk.judge_snapshots()
        if disk.logs():
            raise Wrong("a log is left")
        self.put_layers_back()
        return dropped


def backing_of(leaf):
    with open(leaf, "rb") as file:
        offset, length = struct.unpack(">QI", file.read(20)[8:])
        if not offset:
            return None
        file.seek(offset)
        return re.sub("^file:", "", file.read(length).decode())


def cut_chain(place, exerciser, preload, seed, cuts):
    """(cuts made, of them without all layers, with a log of another boot, failure or None)"""
    folder = pathlib.Path(tempfile.mkdtemp(dir=place))
    done = shorter = stale = 0
    story = []
    try:
        chain = Cuts(folder, exerciser, preload, seed)
        story = chain.disk.story
        for count in chain.recording.choose_cuts(chain.draw, cuts):
            story.append(f"cut after call {count} of {len(chain.recording.calls)}")
            shorter += chain.judge(count) > 0
            stale += chain.stale_log is not None
            done += 1
            story.pop()
        return done, shorter, stale, None
    except Exception as failure:  # the story belongs to whatever it was
        kept = ""
        if os.environ.get("SLUICE_TEST_KEEP"):
            kept = shutil.copytree(folder, tempfile.mkdtemp(prefix="sluice-power-"), dirs_exist_ok=True)
        return done, shorter, stale, f"seed {seed}: {kept}\n" + "\n".join(map(str, story)) + f"\n{type(failure).__name__}: {failure}"
    finally:
        shutil.rmtree(folder)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("exerciser")
    parser.add_argument("preload")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SLUICE_TEST_SEED", "1")))
    parser.add_argument("--chains", type=int, default=max(1, int(36 * ROUNDS)))
    parser.add_argument("--cuts", type=int, default=30)
    options = parser.parse_args()
    begun = time.monotonic()
    first = options.seed * 100_000
    with work_folder() as place, concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(cut_chain, place, os.path.abspath(options.exerciser), os.path.abspath(options.preload), seed,
                            options.cuts) for seed in range(first, first + options.chains)]
        outcomes = [job.result() for job in jobs]
    done, shorter, stale = (sum(outcome[i] for outcome in outcomes) for i in range(3))
    failures = [outcome[3] for outcome in outcomes if outcome[3]]
    print(f"{'not ok' if failures else 'ok'}: {done} power cuts of {options.chains} chains, seeds from {first}: {shorter} did not need "
          f"all layers, {stale} of runs that left a log; {len(failures)} chains failed ({time.monotonic() - begun:.1f} s)")
    for text in failures[:5]:
        print(text)
    if not failures and options.chains >= 20 and (not shorter or not stale):
        print("not ok: some kind of cut was not there")
        return 1
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
