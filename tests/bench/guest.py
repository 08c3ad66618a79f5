#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""tests/bench/guest.py [--turns N] [--seconds S] [--size MIB] [--rate IOPS] [--cold] [--folder DIR] [--only sluice|peer] [CASE...]

What a guest feels: fio's nbd engine on Sluice and on qemu-storage-daemon's NBD export, in turns: random reads and writes of 4 KiB, one or
sixteen in flight, on an idle device and while a job copies into it (ours with its defaults, the peer's without a limit).  Leaf: an empty
overlay of 64 KiB clusters on a raw base of incompressible bytes, fresh for each measurement, all in the page cache (with --cold nothing of
the base, which needs root).  With --rate both are asked for the same number of operations a second: else the faster one has more of them to
wait behind each other, and of a peer that stands still for a second the few that waited are no hundredth.  A job that ends before the
time is over is followed by another on a fresh leaf.  Prints medians over the turns of operations a second, of latencies in microseconds, of
the MiB a second that jobs copied meanwhile, and of how busy fio was, in percent of one processor: near 100 it is fio that is measured.  Then
imaged's memory with a device of 1 TiB under random load.

A case is {read,write}-{1,16}-{idle,stream}, or `memory`; parts of names choose all that contain them.  SLUICE_BIN names the folder with
Sluice's programs."""

import argparse
import itertools
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

import images
from harness import Workplace, wait_until
from images import GIB, MIB
from qemu_daemon import QemuDaemon
from sluice_wire import CommandError
from system import System

RAMP = 0.5  # seconds that fio runs before it counts
FIGURES = ("iops", "p50", "p99", "p99.9", "max", "copy", "client")


class Sluice:
    name = "sluice"

    def __init__(self, place, folder, workers):
        self.system = System(place, workers=workers, root=folder)
        self.number = 0

    def open(self, _base, leaf):
        self.number += 1
        self.device = f"d{self.number}"
        self.system.attach(leaf, device=self.device)
        return self.system.client.call("query-devices", device=self.device)[0]["nbd"]

    def begin_stream(self):
        self.system.stream(self.device)

    def position(self):
        """Of the job; None when it has ended."""
        jobs = self.system.client.call("query-block-jobs", device=self.device)
        return jobs[0]["position"] if jobs else None

    def end_stream(self):
        try:
            self.system.client.call("block_job_cancel", device=self.device)
        except CommandError:
            pass  # it has just ended
        event = self.system.wait_end(self.device)
        if "error" in event["data"]:
            raise RuntimeError(event["data"]["error"])

    def close(self):
        wait_until(lambda: self.system.try_detach(self.device), "detaching", 30)

    def memory_kib(self):
        return self.system.imaged.memory_kib()

    def end(self):
        self.system.stop_all()


class Peer:
    name = "peer"

    def __init__(self, folder):
        self.daemon = QemuDaemon(folder)
        self.begin_stream, self.position = self.daemon.begin_stream, self.daemon.position

    def open(self, base, leaf):
        self.daemon.open(base, leaf)
        return self.daemon.serve()

    def end_stream(self):
        data = self.daemon.cancel()
        if "error" in data:
            raise RuntimeError(data["error"])

    def close(self):
        self.daemon.withdraw()
        self.daemon.close_images()

    def memory_kib(self):
        return self.daemon.memory_kib()

    def end(self):
        self.daemon.close()


class Fio:
    """One run; ended early it still tells what it counted."""

    def __init__(self, folder, uri, kind, depth, seconds, **more):
        self.output = folder / "fio.json"
        options = {"name": "guest", "ioengine": "nbd", "uri": uri, "rw": f"rand{kind}", "bs": "4k", "iodepth": depth, "runtime": f"{int(seconds * 1000)}ms",
                   "ramp_time": f"{int(RAMP * 1000)}ms", "randrepeat": 1, "randseed": 7, "output-format": "json+",
                   "output": self.output, **more}
        self.child = subprocess.Popen(["fio", *[f"--{key}={value}" for key, value in options.items()], "--time_based", "--norandommap"],
                                      stdin=subprocess.DEVNULL, cwd=folder)

    def end(self, early=False):
        """(seconds that were counted, {latency in nanoseconds: how often}, the longest, fio's own percentage of a processor)."""
        if early:
            self.child.send_signal(signal.SIGINT)
        status = self.child.wait()
        text = self.output.read_text()
        job = json.JSONDecoder().raw_decode(text, text.index("{"))[0]["jobs"][0]
        if job["error"] or status and not early:
            raise RuntimeError(f"fio ended with {status}: {text[:2000]}")
        side = job["read"] if job["read"]["total_ios"] else job["write"]
        bins = side["clat_ns"].get("bins", {})
        return side["runtime"] / 1000, {int(value): count for value, count in bins.items()}, side["clat_ns"]["max"], job["usr_cpu"] + job["sys_cpu"]


def figures(slices):
    """Of all slices together; latencies in microseconds."""
    seconds = sum(one[0] for one in slices)
    counts = {}
    for _, bins, _, _ in slices:
        for value, count in bins.items():
            counts[value] = counts.get(value, 0) + count
    total = sum(counts.values())
    found = {"iops": total / seconds if seconds else 0, "max": max(one[2] for one in slices) / 1000,
             "client": sum(one[0] * one[3] for one in slices) / seconds if seconds else 0}
    for name, part in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)):
        seen = itertools.accumulate((counts[value] for value in sorted(counts)))
        found[name] = next((value for value, sum_so_far in zip(sorted(counts), seen) if sum_so_far >= part * total), 0) / 1000
    return found


def fresh(folder, base, name, cold=False):
    leaf = images.create(folder / f"{name}.qcow2", images.virtual_size(base), base.name)
    os.sync()
    if cold:
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
    return leaf


def measured(server, folder, base, kind, depth, streams, seconds, rate, cold):
    """Figures of one server in one case."""
    slices, left = [], seconds
    copying = moved = 0  # seconds and bytes of jobs
    while left > 0:
        leaf = fresh(folder, base, server.name, cold)
        fio = Fio(folder, server.open(base, leaf), kind, depth, left, **({"rate_iops": rate} if rate else {}))
        if streams:
            time.sleep(RAMP)
            server.begin_stream()
            begun = time.monotonic()
            while fio.child.poll() is None and (position := server.position()) is not None:
                copied = position
                time.sleep(0.02)
            copying += time.monotonic() - begun
            moved += copied if position is not None else images.virtual_size(base)
        early = streams and fio.child.poll() is None
        slices.append(fio.end(early))
        if streams:
            server.end_stream()
        server.close()
        leaf.unlink()
        left -= max(slices[-1][0], 0.2)
        left = left if left > 0.3 else 0
    return {**figures(slices), "copy": moved / MIB / copying if copying else 0}


def memory(server, folder, seconds):
    """Of a device of 1 TiB: before, and after random reads and writes all over it."""
    base = images.create_raw(folder / "huge.raw", 1024 * GIB)
    leaf = fresh(folder, base, f"huge-{server.name}")
    before = server.memory_kib()
    uri = server.open(base, leaf)
    opened = server.memory_kib()
    most = opened
    fio = Fio(folder, uri, "rw", 16, seconds, rwmixread=70)
    while fio.child.poll() is None:
        most = max(most, server.memory_kib())
        time.sleep(0.1)
    slices = fio.end()
    server.close()
    print(f"memory of {server.name}: {before // 1024} MiB at first, {opened // 1024} MiB with 1 TiB attached, at most {most // 1024} MiB under load of "
          f"{sum(slices[1].values())} reads and about half as many writes; "
          f"the leaf grew to {images.disk_usage(leaf) // MIB} MiB", flush=True)
    leaf.unlink()
    base.unlink()


def told(case, turns):
    """One line for each server and one for the ratios; `turns`: {server: [figures]}."""
    medians = {}
    for server, found in turns.items():
        medians[server] = {name: statistics.median(one[name] for one in found) for name in FIGURES}
        print(f"{case:16} {server:7}" + "".join(f"{medians[server][name]:>11,.0f}" for name in FIGURES), flush=True)
    if len(medians) == 2:
        ratios = {name: statistics.median(mine[name] / theirs[name] if theirs[name] else 0
                                          for mine, theirs in zip(turns["sluice"], turns["peer"])) for name in FIGURES}
        print(f"{case:16} {'ratio':7}" + "".join(f"{ratios[name]:>11.2f}" for name in FIGURES), flush=True)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--turns", type=int, default=3)
    options.add_argument("--seconds", type=float, default=5, help="of each measurement")
    options.add_argument("--rate", type=int, default=0, help="operations a second that fio asks for (default: as many as it gets)")
    options.add_argument("--cold", action="store_true", help="nothing of the base is in the page cache at first (root)")
    options.add_argument("--size", type=int, default=2048, help="MiB")
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--folder", default=None, help="where images lie (default: a temporary folder)")
    options.add_argument("--only", choices=("sluice", "peer"))
    options.add_argument("cases", nargs="*")
    chosen = options.parse_args()
    missing = [name for name in ("fio", "qemu-storage-daemon") if not shutil.which(name)]
    if missing:
        print(f"skipped: not installed: {' '.join(missing)} (packages fio, qemu-system-common)")
        return 0
    cases = [(kind, depth, how) for how in ("idle", "stream") for kind in ("read", "write") for depth in (1, 16)]
    cases = [case for case in cases if not chosen.cases or any(part in "-".join(map(str, case)) for part in chosen.cases)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was made goes then too
    folder = pathlib.Path(tempfile.mkdtemp(prefix="sluice-bench-", dir=chosen.folder or "/var/tmp"))
    place = Workplace()
    servers = []
    try:
        base = folder / "base.raw"
        with open("/dev/urandom", "rb") as source, open(base, "wb") as target:
            for _ in range(chosen.size):
                target.write(source.read(MIB))
        os.sync()
        if chosen.only != "peer":
            servers.append(Sluice(place, folder, chosen.workers))
        if chosen.only != "sluice":
            servers.append(Peer(folder))
        if cases:
            print(f"{'case':16} {'server':7}" + "".join(f"{name:>11}" for name in FIGURES))
        for kind, depth, how in cases:
            turns = {server.name: [] for server in servers}
            for number in range(chosen.turns):
                for server in servers if number % 2 == 0 else reversed(servers):
                    turns[server.name].append(measured(server, folder, base, kind, depth, how == "stream", chosen.seconds, chosen.rate,
                                                         chosen.cold))
            told(f"{kind}-{depth}-{how}", turns)
        if not chosen.cases or "memory" in chosen.cases:
            for server in servers:
                memory(server, folder, chosen.seconds)
        print(f"({chosen.size} MiB, {chosen.turns} turns of {chosen.seconds:g} s, {chosen.workers} workers)")
        return 0
    finally:
        for server in servers:
            server.end()
        place.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
