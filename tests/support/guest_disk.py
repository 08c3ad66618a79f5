# SPDX-License-Identifier: Apache-2.0
"""A random chain for tests/support/guest/exerciser.c, with internal snapshots in some of the leafs, and its judges."""
import os
import random
import subprocess

import images
from engine_judge import CLEAN, LEAKS, Wrong, run
from images import KIB, MIB
from random_chain import RandomChain

KILLED = -9


class GuestDisk:
    """A leaf with what is below it, a shadow beside it.  `story` says how it was made."""

    def __init__(self, folder, exerciser, seed, most=4 * MIB, chain=None):
        self.folder = folder
        self.exerciser = exerciser
        self.seed = seed
        self.draw = random.Random(seed)
        chain = chain or RandomChain(self.draw, folder, most)
        self.leaf = chain.leaf
        self.layers = chain.files[:-1]
        self.size = chain.size
        self.story = chain.story
        self.shadow = folder / "shadow"
        self.content = folder / "content.raw"
        self.snapshots = {}  # name: what it reads as
        if self.draw.random() < 0.3 and "'refcount_bits': 1," not in str(chain.story) and "'refcount_bits': 1}" not in str(chain.story):
            self.take_snapshots(chain)
        images.flatten(self.leaf, self.content)

    def take_snapshots(self, chain):
        for name in ("one", "two")[:self.draw.randrange(1, 3)]:
            run("qemu-img", "snapshot", "-c", name, self.leaf)
            self.snapshots[name] = self.read_snapshot(name)
            self.story.append(f"snapshot {name}")
            offset = self.draw.randrange(0, self.size) // 512 * 512
            length = min(self.size - offset, 100 * KIB)
            images.io(self.leaf, f"write -P {self.draw.randrange(1, 256)} {offset} {length}")

    def read_snapshot(self, name):
        target = self.folder / "snapshot.raw"
        run("qemu-img", "convert", "-f", "qcow2", "-l", name, "-O", "raw", self.leaf, target)
        content = target.read_bytes()
        target.unlink()
        return content

    def exercise(self, *options, accept=(0,), environment=None, seconds=120):
        """Returns its exit status and what it printed."""
        command = [self.exerciser, self.folder, self.leaf, self.shadow, self.content, "--seed", self.seed, *options]
        try:
            done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                  errors="replace", timeout=seconds, env=dict(os.environ, **(environment or {})))
        except subprocess.TimeoutExpired:
            raise Wrong(f"the exerciser hangs: {command}") from None
        if done.returncode not in accept:
            text = "\n".join([line for line in done.stdout.splitlines() if " info " not in line][-40:])
            raise Wrong(f"the exerciser ended with {done.returncode}: {options}\n{text[-6000:]}")
        return done.returncode, done.stdout

    def check(self, accept=(CLEAN,)):
        run("qemu-img", "check", "-f", "qcow2", self.leaf, accept=accept)

    def check_crashed(self):
        self.check(accept=(CLEAN, LEAKS))

    def logs(self):
        return [path for path in self.folder.iterdir() if path.name.startswith("writes-")]

    def judge(self):
        """After a clean end: nothing leaks, all reads as it must, nothing is left behind."""
        self.check()
        now = self.folder / "now.raw"
        shadow = self.shadow.read_bytes()
        now.write_bytes(shadow[-2 * self.size:-self.size])
        run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", self.leaf, now)
        self.judge_snapshots()
        if self.logs():
            raise Wrong(f"a log is left: {self.logs()}")

    def judge_snapshots(self):
        for name, content in self.snapshots.items():
            if self.read_snapshot(name) != content:
                raise Wrong(f"snapshot {name} has changed")
