#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""QEMU's programs and our engine refuse each other's files, and let each other read where reading is safe.

    file_locks.py --chain-hold PROGRAM

A chain base.raw <- mid.qcow2 <- leaf.qcow2 is held by one side while the other tries."""

import argparse
import fcntl
import os
import shutil
import struct
import subprocess
import sys
import tempfile

HELD, IN_USE = "held", 3
CHAIN_HOLD = None
FAILURES = []


class Holder:
    """A process that has said that it holds something, until the block ends."""

    def __init__(self, *command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(timeout=20)
        self.process.stdout.close()


def ours(*arguments):
    holder = Holder(CHAIN_HOLD, *arguments)
    said = holder.process.stdout.readline().strip()
    if said != HELD:
        raise RuntimeError(f"chain_hold {arguments}: {said}")
    return holder


def qemu_io(*arguments):
    """A qemu-io that has opened its file: it answered a command."""
    holder = Holder("qemu-io", *arguments)
    holder.process.stdin.write("length\n")
    holder.process.stdin.flush()
    while "iB" not in (line := holder.process.stdout.readline()):
        if not line:
            raise RuntimeError(f"qemu-io {arguments} did not open its file")
    return holder


def attempt(*command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          check=False)


def expect_refused(what, *command):
    done = attempt(*command)
    if done.returncode == 0 or "lock" not in done.stdout:
        FAILURES.append(f"{what}: not refused: {done.stdout}")


def expect_works(what, *command):
    done = attempt(*command)
    if done.returncode != 0:
        FAILURES.append(f"{what}: refused: {done.stdout}")


def expect_ours_refused(what, words, *arguments):
    done = attempt(CHAIN_HOLD, *arguments)
    if done.returncode != IN_USE or words not in done.stdout:
        FAILURES.append(f"{what}: wanted a refusal with \"{words}\", got {done.returncode}: {done.stdout}")


def expect_ours_works(what, *arguments):
    expect_works(what, CHAIN_HOLD, *arguments)


def make_chain():
    for command in [["qemu-img", "create", "-q", "-f", "raw", "base.raw", "1M"],
                    ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base.raw", "mid.qcow2"],
                    ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "mid.qcow2", "leaf.qcow2"],
                    ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "mid.qcow2", "sibling.qcow2"]]:
        subprocess.run(command, check=True)


def we_hold_for_writing():
    with ours("leaf.qcow2"):
        expect_refused("QEMU writes to our leaf", "qemu-io", "-c", "write 0 64k", "leaf.qcow2")
        expect_refused("QEMU reads our leaf", "qemu-img", "info", "leaf.qcow2")
        expect_refused("QEMU reads our leaf as raw bytes", "qemu-io", "-r", "-f", "qcow2", "-c", "read 0 1k", "leaf.qcow2")
        expect_works("QEMU looks at our leaf without locks", "qemu-img", "info", "-U", "leaf.qcow2")
        expect_refused("QEMU writes to a file in the middle", "qemu-io", "-c", "write 0 64k", "mid.qcow2")
        expect_refused("QEMU writes to our base", "qemu-io", "-f", "raw", "-c", "write 0 64k", "base.raw")
        expect_refused("QEMU resizes our base", "qemu-img", "resize", "-f", "raw", "base.raw", "2M")
        expect_works("QEMU reads our base", "qemu-io", "-r", "-f", "raw", "-c", "read 0 64k", "base.raw")
        expect_works("QEMU writes to another overlay of it", "qemu-io", "-c", "write 0 64k", "sibling.qcow2")
        expect_ours_refused("a second writer of ours", "another process writes to it", "leaf.qcow2")
        expect_ours_refused("a reader of ours", "another process writes to it", "--read-only", "leaf.qcow2")
        expect_ours_refused("our writer of a file in the middle", "reads it", "mid.qcow2")
        expect_ours_works("another overlay of ours", "sibling.qcow2")
    expect_works("QEMU writes to the leaf that we let go", "qemu-io", "-c", "write 0 64k", "leaf.qcow2")


def we_hold_for_reading():
    with ours("--read-only", "leaf.qcow2"):
        expect_refused("QEMU writes to what we read", "qemu-io", "-c", "write 0 64k", "leaf.qcow2")
        expect_works("QEMU reads what we read", "qemu-img", "info", "leaf.qcow2")
        expect_ours_works("we read it twice", "--read-only", "leaf.qcow2")


def qemu_holds():
    with qemu_io("leaf.qcow2"):
        expect_ours_refused("QEMU has our leaf", "another process writes to it", "leaf.qcow2")
        expect_ours_refused("QEMU has the leaf that we want to read", "writes to it", "--read-only", "leaf.qcow2")
        expect_ours_works("QEMU has a sibling", "sibling.qcow2")
    with qemu_io("-r", "leaf.qcow2"):
        expect_ours_refused("QEMU reads our leaf", "another process reads it", "leaf.qcow2")
        expect_ours_works("QEMU and we read", "--read-only", "leaf.qcow2")
    with qemu_io("-f", "raw", "base.raw"):
        expect_ours_refused("QEMU writes to our base", "base.raw: another process writes to it", "leaf.qcow2")
    with qemu_io("-r", "-f", "raw", "base.raw"):
        expect_ours_works("QEMU reads our base", "leaf.qcow2")
    expect_ours_works("QEMU let go", "leaf.qcow2")


def worker_holds():
    """A worker's byte on the leaf: byte 201, a shared lock of its open file description."""
    with open("leaf.qcow2", "r+b") as leaf:
        lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 201, 1, 0)
        fcntl.fcntl(leaf, fcntl.F_OFD_SETLK, lock)
        expect_ours_works("a worker is still there", "leaf.qcow2")
        expect_refused("QEMU writes beside a worker", "qemu-io", "-c", "write 0 64k", "leaf.qcow2")
        expect_works("QEMU reads beside a worker", "qemu-img", "info", "leaf.qcow2")


def main():
    global CHAIN_HOLD
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--chain-hold", required=True)
    CHAIN_HOLD = os.path.abspath(parser.parse_args().chain_hold)
    if not shutil.which("qemu-img") or not shutil.which("qemu-io"):
        print("skipped: qemu-img and qemu-io are not installed")
        return 77
    with tempfile.TemporaryDirectory(prefix="sluice-locks-") as folder:
        os.chdir(folder)
        make_chain()
        for test in (we_hold_for_writing, we_hold_for_reading, qemu_holds, worker_holds):
            test()
        os.chdir("/")
    print("\n".join(FAILURES) or "all refusals and permissions as they should be")
    return 1 if FAILURES else 0


if __name__ == "__main__":
    sys.exit(main())
