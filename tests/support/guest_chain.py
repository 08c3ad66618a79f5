# SPDX-License-Identifier: Apache-2.0
"""Random chains for guests: as random_chain.py makes them, with compressed clusters in every layer and snapshots in the leaf."""

import images
from harness import check
from images import KIB, MIB
from random_chain import RandomChain


class GuestChain(RandomChain):
    """`snapshots` maps the name of each to a raw file with its content."""

    def __init__(self, random, folder, most=4 * MIB):
        super().__init__(random, folder, most)
        found = images.info(self.leaf)
        self.cluster = found["cluster-size"]
        self.snapshots = {}
        # with fewer bits QEMU itself may find no room for them: compressed clusters share a host cluster
        if found["format-specific"]["data"]["refcount-bits"] >= 16 and random.random() < 0.35:
            self.take_snapshots()
        self.layers = {path: images.digest(path) for path in self.files[:-1]}

    def fill(self, path, size, most=6):
        """Compressed clusters first, and only where there are none yet: QEMU writes them nowhere else."""
        cluster = images.info(path)["cluster-size"]
        packed = []
        for _ in range(self.random.randrange(0, 3)):
            offset = self.random.randrange(0, max(1, size // cluster)) * cluster
            length = max(cluster, self.random.randrange(1, 200 * KIB) // cluster * cluster)
            length = min(length, (size - offset) // cluster * cluster)
            command = f"write -c -P {self.random.randrange(1, 256)} {offset} {length}"
            if length and "failed" not in images.tool("qemu-io", "-f", "qcow2", "-c", command, path, status=None):
                packed.append(command)
        super().fill(path, size, most)
        self.story += packed

    def take_snapshots(self):
        if self.random.random() < 0.4:  # one that needs nothing below it, so that a job is allowed
            images.io(self.leaf, f"write -P 201 0 {self.size}")
            self.story.append("the leaf filled")
        for name in ("first", "second")[:self.random.choice((1, 1, 2))]:
            images.tool("qemu-img", "snapshot", "-c", name, self.leaf)
            target = self.folder / f"{name}.raw"
            self.copy_snapshot(name, target)
            self.snapshots[name] = target
            self.story.append(f"snapshot {name}")
            self.fill(self.leaf, self.size, 3)

    def copy_snapshot(self, name, target):
        images.tool("qemu-img", "convert", "-f", "qcow2", "-l", f"snapshot.name={name}", "-O", "raw", self.leaf, target)

    def content(self):
        """What the guest must read at first."""
        target = self.folder / "start.raw"
        content = images.flatten(self.leaf, target).read_bytes()
        target.unlink()
        return content

    def check_untouched(self):
        """The layers and the snapshots are what they were."""
        for path, digest in self.layers.items():
            check(images.digest(path) == digest, f"{path.name} was changed")
        for name, reference in self.snapshots.items():
            found = self.folder / "found.raw"
            self.copy_snapshot(name, found)
            images.compare(found, reference, file_format="raw")
            found.unlink()
