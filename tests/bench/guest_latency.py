#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""tests/bench/guest_latency.py [--mib N] [--seconds N] [--pause-us N]

What a guest feels of a job on its device: the latency of 4 KiB reads at random places of what its leaf has, without a job, beside one that
gives way to it (floor 4 MiB a second), and beside one that does not (a floor that is never reached from above).  The programs are those
of SLUICE_BIN.  Images lie in the temporary folder: TMPDIR chooses the disk."""

import argparse
import os
import pathlib
import random
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "support"))

import images
from harness import Workplace
from images import GIB, MIB
from nbd_client import Guest, uri
from system import System

NEAR = 16 * MIB  # what the guest reads; it is in the leaf


def prepare(place, megabytes):
    base = place.path / "base.raw"
    with open(base, "wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(MIB))
    leaf = images.create(place.path / "leaf.qcow2", backing="base.raw", backing_format="raw")
    images.io(leaf, f"write -P 7 0 {NEAR}")
    return leaf


def measure(guest, seconds, pause_us, system):
    """Microseconds of each read until the time is over or the job is."""
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.perf_counter_ns()
        guest.read(4096, random.randrange(NEAR // 4096) * 4096)
        found.append((time.perf_counter_ns() - start) / 1000)
        if pause_us:
            time.sleep(pause_us / 1e6)
        if system and len(found) % 500 == 0 and system.job() is None:
            break
    return sorted(found)


def tell(words, found, copied=None, seconds=None):
    rate = f"  copies {copied / MIB / seconds:7.1f} MiB/s" if copied is not None else ""
    print(f"{words:24} {len(found):7} reads   p50 {found[len(found) // 2]:8.0f} us   p99 {found[len(found) * 99 // 100]:8.0f} us"
          f"   max {found[-1]:8.0f} us{rate}", flush=True)


def beside_a_job(words, system, guest, options, floor):
    system.stream(floor=floor)
    start = time.monotonic()
    found = measure(guest, options.seconds, options.pause_us, system)
    seconds, job = time.monotonic() - start, system.job()
    tell(words, found, job["copied"] if job else (options.mib * MIB - NEAR), seconds)
    if job:
        system.client.call("block_job_cancel", device="vda")
        system.wait_end("vda")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=2048, help="size of the base")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--pause-us", type=int, default=0, help="between two reads")
    options = parser.parse_args()
    place = Workplace()
    try:
        leaf = prepare(place, options.mib)
        system = System(place)
        system.attach(leaf)
        with Guest(uri(place, "vda")) as guest:
            measure(guest, 1.0, 0, None)
            tell("no job", measure(guest, options.seconds, options.pause_us, None))
            beside_a_job("gives way, floor 4 MiB/s", system, guest, options, 4 * MIB)
            beside_a_job("does not give way", system, guest, options, 1024 * GIB)
    finally:
        place.close()


if __name__ == "__main__":
    main()
