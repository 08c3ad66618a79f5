#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""engine_crash.py EXERCISER KILL_AFTER [--seed N] [--points N] [--cuts N] [--orders N]

The engine killed at each of its writes and flushes, and power cut between them: any sectors of what was not flushed may be lost,
and, tried one after the other, all of it but one call, or only that one.  Whenever it ends, qemu-img check must find no
error (leaks may be there), the guest must read the same, and after the engine has opened and trimmed the image there must
be no leak either.  --points 0: at every call (otherwise N of them, evenly); --cuts: random power cuts a scenario; --orders: of the
others, at most so many."""
import argparse
import os
import random
import shutil
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from engine_judge import CLEAN, LEAKS, Leaf, Wrong, run, work_folder  # noqa: E402
from power import read_calls  # noqa: E402

# name: (qemu-img's options, size, prepared by, exerciser's options)
SCENARIOS = {
    "usual": ("", 8 << 20, None, ["--steps", "6", "--all", "--switch", "", ""]),
    "small clusters, counts of 64 bits": ("cluster_size=512,refcount_bits=64", 3 << 20, None, ["--steps", "1", "--all"]),
    "a name in the second sector": ("", 1 << 20, None, ["--steps", "1", "--switch", "./base.raw", "raw"]),
    "version 2": ("compat=0.10,cluster_size=4096", 4 << 20, None, ["--steps", "6", "--switch", "./base.raw", "raw"]),
    "snapshots": ("cluster_size=1024", 4 << 20, "snapshots", ["--steps", "8", "--switch", "./base.raw", "raw"]),
    "dirty": ("cluster_size=4096,lazy_refcounts=on", 4 << 20, "dirty", ["--steps", "3"]),
    "counts are missing": ("cluster_size=512,refcount_bits=64", 3 << 20, "missing", ["--steps", "2"]),
    "many blocks at the end of another": ("cluster_size=4096,refcount_bits=64", 70 << 20, "almost a block", ["--steps", "4"]),
    "held and left behind": ("cluster_size=1024", 4 << 20, "left behind", ["--steps", "8"]),
}


def prepare(leaf, how, seed):
    if how in ("snapshots", "missing", "dirty"):
        leaf.io("write -P 17 64k 200k", "write -P 18 2M 1M")
    if how == "snapshots":
        # something in each table, so that each is shared
        leaf.io(*[f"write -P 20 {offset} 1k" for offset in range(0, leaf.size, 64 << 10)])
        run("qemu-img", "snapshot", "-c", "one", leaf.path)
        leaf.io("write -P 19 100k 100k")
    if how == "almost a block":
        leaf.io("write -P 17 0 1920k")
        clusters = leaf.path.stat().st_size // 4096
        if not 450 < clusters < 512:  # of them one block counts 512
            raise Wrong(f"the leaf has {clusters} clusters")
    leaf.take_shadow()
    if how == "left behind":
        leaf.exercise("--copy", "--steps", 6, "--keep", "--no-trim", "--seed", seed)
    if how == "missing":
        leaf.poke(leaf.header(">Q", 48) + 24, bytes(16))
    if how == "dirty":
        leaf.poke(leaf.header(">Q", leaf.header(">Q", 48)), bytes(4096))
        # and flags that are missing
        table = leaf.header(">Q", 40)
        entries = leaf.header(">Q", table) & ((1 << 56) - 512)
        leaf.poke(table, struct.pack(">Q", entries))
        leaf.poke(entries + 16 * 8, struct.pack(">Q", leaf.header(">Q", entries + 16 * 8) & ((1 << 63) - 1)))
    if how in ("missing", "dirty"):
        leaf.poke(72, struct.pack(">Q", 1))


FEW_CALLS = 12  # between two flushes; where there are more, they are entries of tables or data, which differ in nothing


class Scenario:
    def __init__(self, folder, name, exerciser, preload, seed):
        options, size, how, self.arguments = SCENARIOS[name]
        self.arguments = [*self.arguments, "--copy", "--seed", str(seed)]
        self.leaf = Leaf(folder, exerciser, size=size, options=options, seed=seed)
        prepare(self.leaf, how, seed)
        # until it is repaired, the counts of a dirty image are wrong
        self.starts_wrong = how in ("missing", "dirty")
        self.start = self.leaf.folder / "start.qcow2"
        shutil.copyfile(self.leaf.path, self.start)
        self.log = self.leaf.folder / "writes.log"
        self.environment = {"LD_PRELOAD": preload, "SLUICE_KILL_UNDER": str(self.leaf.path),
                            "ASAN_OPTIONS": "verify_asan_link_order=0"}

    def judge_crashed(self):
        leaf = self.leaf
        if not (self.starts_wrong and leaf.header(">Q", 72) & 1):
            leaf.check(accept=(CLEAN, LEAKS))
            leaf.compare()
        leaf.exercise()
        leaf.judge()

    def record(self):
        shutil.copyfile(self.start, self.leaf.path)
        self.leaf.exercise(*self.arguments, environment=dict(self.environment, SLUICE_WRITE_LOG=str(self.log)))
        self.leaf.judge()
        return read_log(self.log)

    def kill_at(self, call, mode):
        shutil.copyfile(self.start, self.leaf.path)
        done = self.leaf.exercise(*self.arguments, accept=(-9, 0), environment=dict(
            self.environment, SLUICE_KILL_AFTER=str(call), SLUICE_KILL_MODE=mode))
        if done.returncode == 0:
            raise Wrong("it was not killed")
        self.judge_crashed()


def read_log(path):
    """[(what, offset, length, bytes)] of the calls.  One thread: when a flush began is no news."""
    return [call for call in read_calls(path) if call[0] != "b"]


def apply(file, call, survives):
    """Does a call to the file; of a write, only the sectors that survive.  New space holds what nobody may rely on."""
    what, offset, length, data = call
    if what == "w":
        end = offset + length
        while offset < end:
            stop = min(end, (offset // 512 + 1) * 512)
            if survives():
                file.seek(offset)
                file.write(data[len(data) - (end - offset):len(data) - (end - stop)])
            offset = stop
    elif what == "a" and survives():
        before = os.fstat(file.fileno()).st_size
        if offset + length > before:
            file.seek(before)
            file.write(b"\xff" * (offset + length - before))
    elif what == "t" and survives():
        file.truncate(offset)
    elif what == "p" and survives():
        file.seek(offset)
        file.write(bytes(min(length, max(0, os.fstat(file.fileno()).st_size - offset))))


def cut_power(scenario, calls, cuts, seed):
    """Between two flushes, some sectors of what was written have reached the disk and some have not."""
    draw = random.Random(seed)
    durable = scenario.leaf.folder / "durable.qcow2"
    shutil.copyfile(scenario.start, durable)
    # just before a flush most is at stake
    moments = [number for number in range(2, len(calls)) if calls[number][0] == "f" and calls[number - 1][0] != "f"]
    if cuts < len(moments):
        moments = draw.sample(moments, cuts)
    moments = sorted(moments * max(1, min(4, cuts // max(1, len(moments)))))
    done = 0
    with open(durable, "r+b", buffering=0) as file:
        for moment in moments:
            flushes = [number for number in range(done, moment) if calls[number][0] == "f"]
            if flushes:
                for call in calls[done:flushes[-1]]:
                    apply(file, call, lambda: True)
                done = flushes[-1] + 1
            shutil.copyfile(durable, scenario.leaf.path)
            chance = draw.choice((0.1, 0.5, 0.9))
            whole_calls = draw.random() < 0.5
            with open(scenario.leaf.path, "r+b", buffering=0) as cut:
                for call in calls[done:moment]:
                    fate = draw.random() < chance
                    apply(cut, call, lambda: fate if whole_calls else draw.random() < chance)
            try:
                scenario.judge_crashed()
            except Wrong as wrong:
                kept = shutil.copyfile(scenario.leaf.path, "/tmp/sluice-cut.qcow2") if os.environ.get("SLUICE_KEEP") else "-"
                raise Wrong(f"power cut after call {moment} of {len(calls)}, chance {chance}, kept {kept}:\n{wrong}") from wrong
    durable.unlink()
    return len(moments)


def sectors(call):
    """A write as one of each sector."""
    what, offset, length, data = call
    if what != "w":
        return [call]
    edges = [offset, *range((offset // 512 + 1) * 512, offset + length, 512), offset + length]
    return [("w", start, end - start, data[start - offset:end - offset]) for start, end in zip(edges, edges[1:])]


def few_between_flushes(calls):
    """[(first, end, pieces)] of the calls between two flushes: sector by sector where that are only a few, or call by call."""
    flushes = [number for number, call in enumerate(calls) if call[0] == "f"]
    found = []
    for before, after in zip([-1, *flushes], [*flushes, len(calls)]):
        whole = calls[before + 1:after]
        torn = [piece for call in whole if call[2] <= FEW_CALLS * 512 for piece in sectors(call)]
        small = len(torn) <= FEW_CALLS and all(call[2] <= FEW_CALLS * 512 for call in whole)
        pieces = torn if small else whole
        if 2 <= len(pieces) <= FEW_CALLS:
            found.append((before + 1, after, pieces))
    return found


def one_or_all_but_one(count):
    """The sets of pieces that may have been durable."""
    numbers = frozenset(range(count))
    return sorted({frozenset([one]) for one in numbers} | {numbers - {one} for one in numbers}, key=sorted)


def lose_each(scenario, calls, most):
    """Of what is done between two flushes one call or sector alone has reached the disk, or all but one: where a flush is missing between
    two of them, one of these is what it would have ruled out.  Random cuts find that or do not; this does."""
    chosen = few_between_flushes(calls)
    total = sum(len(one_or_all_but_one(len(pieces))) for _, _, pieces in chosen)
    if total > most:  # then fewer, all along the way
        chosen = chosen[::-(-total // most)] if most else []
    durable = scenario.leaf.folder / "durable.qcow2"
    shutil.copyfile(scenario.start, durable)
    done = tried = 0
    with open(durable, "r+b", buffering=0) as file:
        for first, end, pieces in chosen:
            for call in calls[done:first]:
                apply(file, call, lambda: True)
            done = first
            for kept in one_or_all_but_one(len(pieces)):
                shutil.copyfile(durable, scenario.leaf.path)
                with open(scenario.leaf.path, "r+b", buffering=0) as cut:
                    for number in sorted(kept):
                        apply(cut, pieces[number], lambda: True)
                try:
                    scenario.judge_crashed()
                except Wrong as wrong:
                    what = [(number, *piece[:3]) for number, piece in enumerate(pieces)]
                    raise Wrong(f"power cut before call {end} of {len(calls)}, of {what} only {sorted(kept)} were durable:\n"
                                f"{wrong}") from wrong
                tried += 1
    durable.unlink()
    return tried


def kill_everywhere(scenario, calls, points):
    count = len(calls)
    # writes of data differ in nothing: one of them is enough
    chosen = [call for call in range(1, count + 1) if calls[call - 1][0] != "w" or calls[call - 1][2] <= 16384]
    if points and points < len(chosen):
        chosen = sorted({chosen[i * len(chosen) // points] for i in range(points)})
    elif not points:
        chosen = range(1, count + 1)
    for number, call in enumerate(chosen):
        halves = calls[call - 1][0] == "w" and calls[call - 1][2] > 1024 and number % 2
        mode = "half" if halves else "after"
        try:
            scenario.kill_at(call, mode)
        except Wrong as wrong:
            raise Wrong(f"killed {mode} call {call} of {count} ({calls[call - 1][:3]}):\n{wrong}") from wrong
    return len(chosen)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("exerciser")
    parser.add_argument("preload")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SLUICE_TEST_SEED", "1")))
    parser.add_argument("--points", type=int, default=30)
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--orders", type=int, default=100)
    options = parser.parse_args()
    failed = 0
    for name in options.names or SCENARIOS:
        begun = time.monotonic()
        with work_folder() as folder:
            try:
                scenario = Scenario(folder, name, os.path.abspath(options.exerciser), os.path.abspath(options.preload),
                                    options.seed)
                calls = scenario.record()
                killed = kill_everywhere(scenario, calls, options.points)
                cut = cut_power(scenario, calls, options.cuts, options.seed)
                orders = lose_each(scenario, calls, options.orders)
                print(f"ok {name}, seed {options.seed}: {len(calls)} calls, {killed} kills, {cut} power cuts, {orders} orders "
                      f"({time.monotonic() - begun:.1f} s)", flush=True)
            except Wrong as wrong:
                failed += 1
                print(f"not ok {name}, seed {options.seed}\n{wrong}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
