#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""engine_hostile.py EXERCISER

Images that somebody damaged on purpose: the engine refuses what is wrong in them, in bounded memory and time, and never ends
by a signal."""
import os
import resource
import struct
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from engine_judge import Wrong, run, work_folder  # noqa: E402

MIB = 1 << 20
MEMORY_MAX = 768 * MIB
SECONDS_MAX = 30
DIRTY = 1


def load(image, offset, length=8):
    with open(image, "rb") as file:
        file.seek(offset)
        return int.from_bytes(file.read(length), "big")


def store(image, offset, value, length=8):
    with open(image, "r+b") as file:
        file.seek(offset)
        file.write(value.to_bytes(length, "big"))


def make_dirty(image):
    store(image, 72, load(image, 72) | DIRTY)


def bitmap_entry(image):
    """Where the first entry of the bitmap directory is."""
    with open(image, "rb") as file:
        header = file.read(65536)
    extension = header.index(struct.pack(">II", 0x23852875, 24), 104)
    return int.from_bytes(header[extension + 24:extension + 32], "big")


def bitmap_table(image, entries):
    store(image, bitmap_entry(image), 4 << 30)
    store(image, bitmap_entry(image) + 8, entries, 4)
    os.truncate(image, 40 << 30)
    make_dirty(image)


class Tests:
    def __init__(self, folder, exerciser):
        self.exerciser = exerciser
        self.image, self.shadow = os.path.join(folder, "leaf.qcow2"), os.path.join(folder, "shadow.raw")

    def make(self, options="cluster_size=65536", size="8M"):
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, self.image, size)
        run("qemu-io", "-c", "write -P 1 0 100k", self.image)
        run("qemu-img", "create", "-q", "-f", "raw", self.shadow, size)

    def exercise(self):
        """What the exerciser says, and how it ended."""
        with open(self.exerciser, "rb") as file:
            has_sanitizer = b"__asan_init" in file.read()  # it reserves terabytes of addresses; then only memory counts

        def limit():
            if not has_sanitizer:
                resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))

        done = subprocess.run([self.exerciser, self.image, self.shadow, "--steps", "20"], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=SECONDS_MAX, preexec_fn=limit, check=False)
        text = done.stdout.decode(errors="replace")
        if done.returncode < 0:
            raise Wrong(f"ended by signal {-done.returncode}: {text}")
        return done.returncode, text

    def refuses(self, words):
        status, text = self.exercise()
        if status != 1 or words not in text:
            raise Wrong(f'ended with {status}, "{words}" is not in: {text}')

    def test_a_bitmap_table_larger_than_memory(self):
        self.make()
        run("qemu-img", "bitmap", "--add", self.image, "b")
        bitmap_table(self.image, 0x8000000)
        self.exercise()

    def test_a_bitmap_table_larger_than_any(self):
        self.make()
        run("qemu-img", "bitmap", "--add", self.image, "b")
        bitmap_table(self.image, 0xffffffff)
        self.exercise()

    def test_counts_of_clusters_past_every_offset(self):
        self.make("cluster_size=2M,refcount_bits=1")
        cluster = 2 * MIB
        table = (os.path.getsize(self.image) + cluster - 1) // cluster * cluster
        first_block, last_block = load(self.image, load(self.image, 48)), table + 4 * cluster
        os.truncate(self.image, last_block + cluster)
        store(self.image, table, first_block)
        store(self.image, table + (1 << 19) * 8, last_block)  # counts clusters from 2^43 on: bytes from 2^64 on
        store(self.image, last_block, 1, 1)
        store(self.image, 48, table)
        store(self.image, 56, 4, 4)
        self.refuses("is corrupt")

    def test_an_l2_table_that_is_a_refcount_block(self):
        self.make()
        block = load(self.image, load(self.image, 48))
        store(self.image, load(self.image, 40), block | 1 << 63)
        self.refuses("is a refcount block")


def main():
    failed = 0
    for name in [name for name in dir(Tests) if name.startswith("test_")]:
        with work_folder() as folder:
            try:
                getattr(Tests(folder, os.path.abspath(sys.argv[1])), name)()
                print(f"ok {name}", flush=True)
            except (Wrong, subprocess.TimeoutExpired) as wrong:
                failed += 1
                print(f"not ok {name}\n{wrong}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
