#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""tests/bench/stream.py [--pairs N] [--size MIB] [--workers N] [--folder DIR]

Sluice beside qemu-storage-daemon's block-stream, in turns: a base of incompressible data, a fresh leaf of 64 KiB clusters, `sync` between;
daemons running; from the request to the event; the results compared.  Sluice's end is durable, the peer's is not.  Prints both medians and
the ratio of each pair.  SLUICE_BIN names the folder with Sluice's programs."""

import argparse
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

import images
from harness import Workplace
from images import MIB
from qemu_daemon import QemuDaemon
from system import System


def theirs_takes(peer, base, leaf):
    peer.open(base, leaf)
    begun = time.monotonic()
    peer.begin_stream()
    data = peer.until("BLOCK_JOB_COMPLETED")
    took = time.monotonic() - begun
    if "error" in data:
        raise RuntimeError(data["error"])
    peer.close_images()
    return took


def ours(system, leaf):
    system.attach(leaf)
    events = system.events("BLOCK_JOB_COMPLETED/")
    time.sleep(0.2)  # a subscription takes effect only a moment after it was made
    begun = time.monotonic()
    system.stream()
    event = events.until("BLOCK_JOB_COMPLETED", 600)
    took = time.monotonic() - begun
    events.close()
    if "error" in event["data"]:
        raise RuntimeError(event["data"]["error"])
    system.detach()
    return took


def fresh(folder, base):
    leaf = images.create(folder / "leaf.qcow2", images.virtual_size(base), base.name)
    os.sync()
    return leaf


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pairs", type=int, default=5)
    options.add_argument("--size", type=int, default=1024, help="MiB")
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--folder", default=None, help="where images lie (default: a temporary folder)")
    chosen = options.parse_args()
    if not shutil.which("qemu-storage-daemon"):
        print("skipped: qemu-storage-daemon is not installed (package qemu-system-common)")
        return 0
    folder = pathlib.Path(tempfile.mkdtemp(prefix="sluice-bench-", dir=chosen.folder or "/var/tmp"))
    place = Workplace()
    peer = None
    try:
        base = folder / "base.raw"
        with open("/dev/urandom", "rb") as source, open(base, "wb") as target:
            for _ in range(chosen.size):
                target.write(source.read(MIB))
        os.sync()
        base.read_bytes()
        system = System(place, workers=chosen.workers, root=folder)
        peer = QemuDaemon(folder)
        pairs = []
        for number in range(chosen.pairs + 1):
            leaf = fresh(folder, base)
            mine = ours(system, leaf)
            images.compare(leaf, base)
            leaf.unlink()
            leaf = fresh(folder, base)
            theirs = theirs_takes(peer, base, leaf)
            images.compare(leaf, base)
            leaf.unlink()
            print(f"{'warm-up' if number == 0 else f'pair {number}'}: sluice {mine:.3f} s, peer {theirs:.3f} s, ratio {theirs / mine:.2f}",
                  flush=True)
            if number:
                pairs.append((mine, theirs))
        print(f"median: sluice {statistics.median(mine for mine, _ in pairs):.3f} s, "
              f"peer {statistics.median(theirs for _, theirs in pairs):.3f} s, "
              f"ratio of pairs {statistics.median(theirs / mine for mine, theirs in pairs):.2f} "
              f"({chosen.size} MiB, {chosen.workers} workers)")
        system.stop_all()
        return 0
    finally:
        if peer:
            peer.close()
        place.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
