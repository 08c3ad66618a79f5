#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""tests/bench/stream.py [--pairs N] [--size MIB] [--workers N] [--folder DIR]

Sluice beside qemu-storage-daemon's block-stream, in turns: a base of incompressible data, a fresh leaf of 64 KiB clusters, `sync` between;
daemons running; from the request to the event; the results compared.  Sluice's end is durable, the peer's is not.  Prints both medians and
the ratio of each pair.  SLUICE_BIN names the folder with Sluice's programs."""

import argparse
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

import images
from harness import Workplace
from images import MIB
from system import System


class Peer:
    """qemu-storage-daemon, spoken to over QMP."""

    def __init__(self, folder):
        self.path = str(folder / "qmp")
        self.child = subprocess.Popen(["qemu-storage-daemon", "--chardev", f"socket,id=c,path={self.path},server=on,wait=off",
                                       "--monitor", "chardev=c"])
        self.socket = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + 10
        while True:
            try:
                self.socket.connect(self.path)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self.execute("qmp_capabilities")

    def execute(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if "error" in answer:
                raise RuntimeError(answer["error"])
            if "return" in answer:
                return answer["return"]

    def until(self, event):
        while True:
            line = json.loads(self.file.readline())
            if line.get("event") == event:
                return line["data"]

    def stream(self, base, leaf):
        self.execute("blockdev-add", **{"node-name": "base", "driver": "raw", "read-only": True,
                                        "file": {"driver": "file", "filename": str(base), "aio": "io_uring"}})
        self.execute("blockdev-add", **{"node-name": "leaf", "driver": "qcow2", "backing": "base",
                                        "file": {"driver": "file", "filename": str(leaf), "aio": "io_uring"}})
        begun = time.monotonic()
        self.execute("block-stream", **{"job-id": "job", "device": "leaf"})
        data = self.until("BLOCK_JOB_COMPLETED")
        took = time.monotonic() - begun
        if "error" in data:
            raise RuntimeError(data["error"])
        self.execute("blockdev-del", **{"node-name": "leaf"})
        self.execute("blockdev-del", **{"node-name": "base"})
        return took

    def close(self):
        self.child.terminate()
        self.child.wait()


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
        peer = Peer(folder)
        pairs = []
        for number in range(chosen.pairs + 1):
            leaf = fresh(folder, base)
            mine = ours(system, leaf)
            images.compare(leaf, base)
            leaf.unlink()
            leaf = fresh(folder, base)
            theirs = peer.stream(base, leaf)
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
