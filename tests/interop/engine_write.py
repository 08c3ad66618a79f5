#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""engine_write.py EXERCISER KILL_AFTER [--seed N] [--rounds N] [NAME...]

The write side of the qcow2 engine, judged by qemu-img: each test makes leaves with qemu-img and qemu-io, lets the exerciser
reserve, write, map, zero, switch and trim by a random plan, and then wants no error, no leak and the right content."""
import argparse
import os
import shutil
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from engine_judge import CLEAN, Leaf, Wrong, run, work_folder  # noqa: E402

CLUSTER_SIZES = [512 << i for i in range(13)]


class Tests:
    def __init__(self, folder, exerciser, preload, seed):
        self.folder, self.exerciser, self.preload, self.seed = folder, exerciser, preload, seed

    def leaf(self, **options):
        return Leaf(self.folder, self.exerciser, seed=self.seed, **options)

    def plan(self, leaf, *options, steps=25):
        leaf.take_shadow()
        leaf.exercise("--seed", self.seed, "--steps", steps, *options)
        leaf.judge()

    def size_for(self, cluster):
        return {512: 2 << 20, 1024: 4 << 20}.get(cluster, (12 << 20) - 1536 if cluster < 1 << 20 else 48 << 20)

    def test_cluster_sizes_and_versions(self):
        for cluster in CLUSTER_SIZES:
            for version in ("0.10", "1.1"):
                leaf = self.leaf(size=self.size_for(cluster), options=f"cluster_size={cluster},compat={version}")
                self.plan(leaf)

    def test_refcount_widths(self):
        for cluster in (512, 65536):
            for bits in (1, 2, 4, 8, 16, 32, 64):
                leaf = self.leaf(size=self.size_for(cluster), options=f"cluster_size={cluster},refcount_bits={bits}")
                self.plan(leaf, steps=15)
                self.plan(leaf, steps=5)

    def test_refcount_table_grows(self):
        for cluster, bits in ((512, 64), (512, 16), (1024, 64)):
            leaf = self.leaf(size=24 << 20, options=f"cluster_size={cluster},refcount_bits={bits}")
            before = leaf.header(">I", 56)
            self.plan(leaf, "--all", steps=5)
            if leaf.header(">I", 56) <= before:
                raise Wrong("the refcount table did not grow")
            leaf.judge_alone()

    def test_everything_copied_needs_no_base(self):
        for cluster in (4096, 65536, 2 << 20):
            leaf = self.leaf(size=(24 << 20) + 512, options=f"cluster_size={cluster}")
            self.plan(leaf, "--copy", "--all", "--switch", "", "", steps=20)
            leaf.base.unlink()
            leaf.judge()
            if b"backing" in run("qemu-img", "info", leaf.path).stdout:
                raise Wrong("there is still a backing file")

    def test_lazy_and_dirty(self):
        for options in ("lazy_refcounts=on", "lazy_refcounts=on,cluster_size=4096", "lazy_refcounts=on,cluster_size=512,refcount_bits=1"):
            leaf = self.leaf(size=8 << 20, options=options)
            leaf.io("write -P 17 64k 200k", "write -P 18 3M 1M")
            leaf.take_shadow()
            leaf.io("write -P 19 1M 700k", "write -P 20 5M 512k", "flush", "abort", accept=(-6, 134))
            if not leaf.header(">Q", 72) & 1:
                raise Wrong("qemu-io left no dirty image")
            # what was flushed must be there after the repair
            leaf.io("read -P 17 64k 200k")  # a reader does not repair
            leaf.exercise()
            if leaf.header(">Q", 72) & 1:
                raise Wrong("the dirty bit is still set")
            leaf.check()
            leaf.io("read -P 19 1M 700k", "read -P 20 5M 512k", "read -P 18 3M 1M")
            self.plan(leaf)

    def test_dirty_with_wrong_counts(self):
        """All counts wrong, both ways, and flags that lie; the bit says that they may be."""
        for options in ("", "cluster_size=1024", "cluster_size=512,refcount_bits=64", "cluster_size=4096,refcount_bits=2"):
            leaf = self.leaf(size=6 << 20, options=options)
            leaf.io("write -P 17 64k 200k", "write -P 18 3M 1M", "write -z 2M 256k")
            leaf.take_shadow()
            cluster = 1 << leaf.header(">I", 20)
            table = leaf.header(">Q", 48)
            block = leaf.header(">Q", table)
            for value in (b"\0", b"\x11"):
                leaf.poke(block, value * cluster)
                leaf.poke(72, struct.pack(">Q", leaf.header(">Q", 72) | 1))
                leaf.exercise()
                leaf.judge()
            self.plan(leaf, steps=10)

    def test_dirty_with_snapshots_and_bitmaps(self):
        leaf = self.leaf(size=6 << 20, options="cluster_size=4096")
        leaf.io("write -P 17 64k 200k", "write -P 18 3M 1M")
        for name in ("one", "two"):
            run("qemu-img", "bitmap", "--add", "-g", "512", leaf.path, name)
        run("qemu-img", "snapshot", "-c", "first", leaf.path)
        leaf.io("write -P 19 3500k 1M")
        leaf.take_shadow()
        before = self.snapshot(leaf, "first")
        for value in (b"\0", b"\x11"):
            leaf.poke(leaf.header(">Q", leaf.header(">Q", 48)), value * 4096)
            leaf.poke(72, struct.pack(">Q", 1))
            leaf.exercise()
            leaf.judge()
        self.plan(leaf, steps=10)
        if before != self.snapshot(leaf, "first"):
            raise Wrong("the snapshot changed")

    def test_a_hint_that_lies(self):
        """A hint that names everything frees nothing that is used; one over a damaged image frees nothing at all."""
        for damaged in (False, True):
            leaf = self.leaf(size=6 << 20)
            leaf.io("write -P 17 64k 200k", "write -P 18 3M 1M")
            leaf.take_shadow()
            leaf.exercise("--copy", "--keep", "--no-trim", "--steps", "8")
            with open(leaf.path, "rb") as file:
                at = file.read(4096).index(struct.pack(">I", 0x536c7a31))
            leaf.poke(at + 8, struct.pack(">QQ", 0, 1 << 62) + bytes(48))
            if damaged:
                block = leaf.header(">Q", leaf.header(">Q", 48))
                leaf.poke(block + 12, bytes(65536 - 12))
                size = leaf.path.stat().st_size
            leaf.exercise()
            leaf.compare()
            if not damaged:
                leaf.check()
            elif leaf.path.stat().st_size < size:
                raise Wrong("a damaged image was cut")

    def test_dirty_with_blocks_missing(self):
        leaf = self.leaf(size=12 << 20, options="cluster_size=512,refcount_bits=64")
        leaf.io("write -P 17 64k 200k", "write -P 18 3M 4M")
        leaf.take_shadow()
        table = leaf.header(">Q", 48)
        for entry in (0, 3, 4, 60):
            leaf.poke(table + entry * 8, bytes(8))
        leaf.poke(72, struct.pack(">Q", 1))
        leaf.exercise()
        leaf.judge()

    def test_corrupt_is_refused_by_name(self):
        def damaged(describe, damage):
            leaf = self.leaf(size=8 << 20)
            leaf.io("write -P 17 0 256k", "write -P 18 3M 64k")
            leaf.take_shadow()
            leaf.poke(72, struct.pack(">Q", 1))
            l1 = leaf.header(">Q", 40)
            damage(leaf, l1, leaf.header(">Q", l1) & ((1 << 56) - 512))
            before = leaf.path.read_bytes()
            done = leaf.exercise(accept=(1,))
            if describe not in done.stdout:
                raise Wrong(f"not refused by name: {done.stdout}")
            after = leaf.path.read_bytes()
            if before[72:80] != after[72:80]:
                raise Wrong("a corrupt image lost its dirty bit")

        def entry(leaf, table, index, value):
            leaf.poke(table + index * 8, struct.pack(">Q", value))

        copied = 1 << 63
        damaged(b"outside the file", lambda leaf, l1, l2: entry(leaf, l2, 9, copied | 1 << 40))
        damaged(b"used twice", lambda leaf, l1, l2: entry(leaf, l2, 9, leaf.header(">Q", l2)))
        damaged(b"two different things", lambda leaf, l1, l2: entry(leaf, l2, 9, copied | l1))
        damaged(b"two different things", lambda leaf, l1, l2: entry(leaf, l2, 9, copied | l2))
        damaged(b"not to a cluster", lambda leaf, l1, l2: entry(leaf, l2, 9, copied | 512))

    def test_preallocated(self):
        for kind in ("metadata", "falloc", "full"):
            leaf = self.leaf(size=16 << 20, options=f"preallocation={kind},cluster_size=4096", base_pattern=False)
            self.plan(leaf)

    def test_compressed_clusters_stay(self):
        for kind in ("zlib", "zstd"):
            leaf = self.leaf(size=16 << 20)
            upper = self.folder + "/upper.raw"
            shutil.copyfile(leaf.base, upper)
            run("qemu-io", "-f", "raw", "-c", "write -P 33 1M 3M", "-c", "write -P 34 9M 100k", upper)
            run("qemu-img", "convert", "-c", "-O", "qcow2", "-o", f"compression_type={kind}", "-B", leaf.base.name, "-F", "raw",
                upper, leaf.path)
            self.plan(leaf)

    def test_internal_snapshots(self):
        for options in ("", "cluster_size=4096", "cluster_size=512,refcount_bits=8", "compat=0.10,cluster_size=2M",
                        "cluster_size=1024,refcount_bits=64"):
            size = 32 << 20 if "2M" in options else 8 << 20
            leaf = self.leaf(size=size, options=options)
            leaf.io("write -P 17 64k 200k", "write -P 18 3M 1M")
            run("qemu-img", "snapshot", "-c", "first", leaf.path)
            leaf.io("write -P 19 100k 100k", "write -P 20 5M 1M")
            run("qemu-img", "snapshot", "-c", "second", leaf.path)
            leaf.io("write -P 21 4M 100k")
            before = [self.snapshot(leaf, name) for name in ("first", "second")]
            self.plan(leaf)
            self.plan(leaf)
            if before != [self.snapshot(leaf, name) for name in ("first", "second")]:
                raise Wrong("a snapshot changed")
            for name in ("first", "second"):
                run("qemu-img", "snapshot", "-d", name, leaf.path)
                leaf.judge()

    def snapshot(self, leaf, name):
        path = self.folder + "/snapshot.raw"
        # without the backing file: only what the snapshot itself holds
        copy = self.folder + "/copy.qcow2"
        shutil.copyfile(leaf.path, copy)
        run("qemu-img", "rebase", "-u", "-b", "", copy)
        run("qemu-img", "convert", "-l", name, "-O", "raw", copy, path)
        with open(path, "rb") as file:
            return hash(file.read())

    def test_bitmaps_are_marked_in_use(self):
        leaf = self.leaf(size=8 << 20)
        for name in ("one", "two"):
            run("qemu-img", "bitmap", "--add", leaf.path, name)
        leaf.io("write -P 17 64k 200k")
        self.plan(leaf)
        text = run("qemu-img", "info", leaf.path).stdout
        if text.count(b"in-use") != 2:
            raise Wrong(f"not marked in-use:\n{text.decode()}")
        if leaf.header(">Q", 88) & 1 == 0:
            raise Wrong("the autoclear bit of the bitmaps went")

    def test_unknown_autoclear_bits_are_cleared(self):
        leaf = self.leaf(size=8 << 20)
        leaf.poke(88, struct.pack(">Q", 1 << 40 | 1 << 5))
        self.plan(leaf, steps=3)
        if leaf.header(">Q", 88) != 0:
            raise Wrong("unknown autoclear bits stayed")

    def test_unknown_extensions_stay(self):
        for options in ("", "cluster_size=512"):
            leaf = self.leaf(size=2 << 20, options=options)
            name = struct.pack(">II8s", 0x12345678, 8, b"keep me!")
            # in front of all others: the name moves behind
            begin = leaf.header(">I", 100)
            with open(leaf.path, "rb") as file:
                head = bytearray(file.read(1 << leaf.header(">I", 20)))
            offset, length = struct.unpack_from(">QI", head, 8)
            head[begin + len(name):offset + length + len(name)] = head[begin:offset + length]
            head[begin:begin + len(name)] = name
            struct.pack_into(">Q", head, 8, offset + len(name))
            leaf.poke(0, bytes(head))
            self.plan(leaf, "--switch", str(leaf.base), "raw", steps=10)
            with open(leaf.path, "rb") as file:
                if name not in file.read(4096):
                    raise Wrong("the unknown extension went")

    def test_switching(self):
        """Names of many lengths, formats that come and go, headers of every shape."""
        for options in ("", "compat=0.10", "cluster_size=512", "cluster_size=1024", "cluster_size=4096,compat=0.10",
                        "cluster_size=2M"):
            leaf = self.leaf(size=2 << 20, options=options)
            leaf.take_shadow()
            for length in (9, 30, 60, 100):
                name = "./" * ((length - 8) // 2) + "base.raw"
                self.switch(leaf, name, "raw")
                self.switch(leaf, name, "raw")
            inner = leaf.folder / "mid.qcow2"
            run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", inner)
            self.switch(leaf, "mid.qcow2", "qcow2")
            self.switch(leaf, "base.raw", "raw")
            self.plan(leaf, "--copy", "--all", "--switch", "", "", steps=5)
            self.switch(leaf, "", "")
            self.switch(leaf, "base.raw", "raw")
            self.plan(leaf, "--copy", steps=5)

    def switch(self, leaf, name, form):
        leaf.exercise("--switch", name, form, "--steps", "1", "--copy", "--seed", self.seed)
        leaf.judge()
        text = run("qemu-img", "info", leaf.path).stdout.decode()
        lines = [line for line in text.splitlines() if line.startswith("backing file")]
        wanted = [f"backing file: {name}", f"backing file format: {form}"] if name else []
        if [line.split(" (actual")[0] for line in lines] != wanted:
            raise Wrong(f"wanted {wanted}, got:\n{text}")

    def test_switching_is_refused_beforehand(self):
        leaf = self.leaf(size=1 << 20, options="cluster_size=512")
        leaf.take_shadow()
        before = leaf.path.read_bytes()
        done = leaf.exercise("--switch", "x" * 400, "raw", accept=(1,))
        if b"no room" not in done.stdout or leaf.path.read_bytes() != before:
            raise Wrong(f"not refused as it should be: {done.stdout}")
        # an old header without an end marker: the name follows the fields
        leaf = self.leaf(size=1 << 20, options="compat=0.10")
        leaf.take_shadow()
        leaf.poke(72, b"base.raw" + bytes(200))
        leaf.poke(8, struct.pack(">QI", 72, 8))
        done = leaf.exercise("--switch", "other", "raw", accept=(1,))
        if b"no end marker" not in done.stdout:
            raise Wrong(f"not refused as it should be: {done.stdout}")

    def test_full_disk(self):
        """The file cannot grow past a size: what fits is copied, the rest refused; then there is space again."""
        for cluster, limit in ((512, 2 << 20), (4096, 5 << 20), (65536, 9 << 20), (2 << 20, 23 << 20)):
            leaf = self.leaf(size=64 << 20 if cluster > 4096 else 12 << 20, options=f"cluster_size={cluster}")
            leaf.take_shadow()
            leaf.exercise("--copy", "--full", environment={"LD_PRELOAD": self.preload, "SLUICE_KILL_UNDER": str(leaf.path),
                                                          "SLUICE_FULL_ABOVE": str(limit),
                                                          "ASAN_OPTIONS": "verify_asan_link_order=0"})
            leaf.judge()
            if leaf.path.stat().st_size < limit - limit // 8 - cluster * 8:
                raise Wrong(f"only {leaf.path.stat().st_size} of {limit} bytes were used")
            leaf.exercise("--copy", "--all")
            leaf.judge()
            leaf.judge_alone()

    def test_threads(self):
        for options in ("cluster_size=512", "cluster_size=4096", "cluster_size=512,refcount_bits=64"):
            leaf = self.leaf(size=3 << 20, options=options)
            leaf.take_shadow()
            leaf.exercise("--threads", 4)
            leaf.judge()

    def test_what_is_held_stays_and_is_reclaimed(self):
        for cluster in (512, 65536):
            leaf = self.leaf(size=self.size_for(cluster), options=f"cluster_size={cluster}")
            leaf.take_shadow()
            for _ in range(3):
                leaf.exercise("--seed", self.seed, "--steps", 30, "--keep", "--no-trim")
                leaf.check(accept=(CLEAN, 3))
                leaf.compare()
            leaf.exercise()
            leaf.judge()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("exerciser")
    parser.add_argument("preload")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SLUICE_TEST_SEED", "1")))
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    failed = 0
    for seed in range(options.seed, options.seed + options.rounds):
        with work_folder() as folder:
            tests = Tests(folder, os.path.abspath(options.exerciser), os.path.abspath(options.preload), seed)
            for name in [name for name in dir(tests) if name.startswith("test_")]:
                if options.names and name not in options.names:
                    continue
                begun = time.monotonic()
                try:
                    getattr(tests, name)()
                    print(f"ok {name} seed {seed} ({time.monotonic() - begun:.1f} s)", flush=True)
                except Wrong as wrong:
                    failed += 1
                    print(f"not ok {name} seed {seed}\n{wrong}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
