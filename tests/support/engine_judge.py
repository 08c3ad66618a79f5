# SPDX-License-Identifier: Apache-2.0
"""Leaves for the tests of the engine's write side, and what qemu-img says of them."""
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile

from harness import memory_folder

CLEAN, LEAKS = 0, 3  # exit statuses of qemu-img check


class Wrong(Exception):
    pass


def run(*command, accept=(0,), environment=None):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env=dict(os.environ, **(environment or {})))
    if done.returncode not in accept:
        lines = done.stdout.decode(errors="replace").splitlines(keepends=True)
        # leaks come by the thousand; what else there is must be seen
        text = "".join([line for line in lines if not line.startswith("Leaked")] + lines[:3])
        raise Wrong(f"{' '.join(str(word) for word in command)} ended with {done.returncode}:\n{text[-3000:]}")
    return done


def work_folder():
    """In memory if there is room: what is judged is the order of writes, not the disk."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the folder goes then too
    return tempfile.TemporaryDirectory(prefix="sluice-engine-", dir=memory_folder())


class Leaf:
    """A leaf over a raw base, and a raw file with what its guest must read."""

    def __init__(self, folder, exerciser, size=16 << 20, options="", seed=1, base_pattern=True):
        self.folder = pathlib.Path(folder)
        self.exerciser = exerciser
        self.size = size
        self.base = self.folder / "base.raw"
        self.path = self.folder / "leaf.qcow2"
        self.shadow = self.folder / "shadow.raw"
        for path in (self.base, self.path, self.shadow):
            path.unlink(missing_ok=True)
        make_base(self.base, size, seed if base_pattern else None)
        if base_pattern:
            run("qemu-img", "create", "-q", "-f", "qcow2", *(["-o", options] if options else []), "-b", self.base.name,
                "-F", "raw", self.path)
        else:
            run("qemu-img", "create", "-q", "-f", "qcow2", *(["-o", options] if options else []), self.path, size)

    def io(self, *commands, accept=(0,)):
        arguments = [word for command in commands for word in ("-c", command)]
        return run("qemu-io", "-f", "qcow2", *arguments, self.path, accept=accept)

    def take_shadow(self):
        run("qemu-img", "convert", "-O", "raw", self.path, self.shadow)

    def exercise(self, *options, accept=(0,), environment=None):
        return run(self.exerciser, self.path, self.shadow, *options, accept=accept, environment=environment)

    def check(self, accept=(CLEAN,)):
        return run("qemu-img", "check", "-q", self.path, accept=accept).returncode

    def compare(self):
        run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", self.path, self.shadow)

    def judge(self):
        self.check()
        self.compare()

    def judge_alone(self):
        """The leaf as it reads with nothing under it."""
        alone = self.folder / "alone.qcow2"
        shutil.copyfile(self.path, alone)
        run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "", alone)
        run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", alone, self.shadow)
        alone.unlink()

    def header(self, layout, offset):
        with open(self.path, "rb") as file:
            file.seek(offset)
            return struct.unpack(layout, file.read(struct.calcsize(layout)))[0]

    def poke(self, offset, data):
        with open(self.path, "r+b") as file:
            file.seek(offset)
            file.write(data)


def make_base(path, size, seed):
    """Text, zeroes and holes, different at each place."""
    with open(path, "wb") as file:
        file.truncate(size)
        if seed is None:
            return
        step = 192 << 10
        for number, offset in enumerate(range(0, size, step)):
            if number % 4 != 3:
                block = (f"base {seed} {number} " * 4096).encode()
                file.seek(offset)
                file.write(block[:min(step // 2, size - offset)])
