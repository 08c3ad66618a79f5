# SPDX-License-Identifier: Apache-2.0
"""Random image chains: layers, sizes, cluster sizes, versions, zero and compressed clusters, raw or qcow2 bottoms."""

import images
from images import KIB, MIB


class RandomChain:
    """Made with `random` in `folder`: files[0] is the bottom, files[-1] the leaf.  `story` says how, for the log of a failure."""

    def __init__(self, random, folder, most=4 * MIB):
        self.random = random
        self.folder = folder
        self.story = []
        self.files = []
        self.size = random.randrange(most // 8, most) & ~511
        self.bottom()
        for number in range(random.choice((0, 1, 1, 2, 2, 3))):
            self.overlay(f"mid{number}.qcow2")
        self.leaf = self.overlay("leaf.qcow2", leaf=True)

    def about_the_size(self):
        """Often the leaf's size, else shorter or longer; multiples of 512."""
        return self.random.choice((self.size, self.size, self.random.randrange(512, self.size * 5 // 4))) // 512 * 512 or 512

    def bottom(self):
        size = self.about_the_size()
        if self.random.random() < 0.6:
            size += self.random.choice((0, 0, 0, 100))  # raw files may end anywhere
            pieces = []
            for _ in range(self.random.randrange(0, 6)):
                offset = self.random.randrange(0, size)
                length = min(self.random.randrange(1, 600 * KIB), size - offset)
                pieces.append((offset, self.random.choice((images.pattern(length, self.random.random()), bytes(length)))))
            self.files.append(images.create_raw(self.folder / "base.raw", size, pieces))
            self.story.append(f"base.raw of {size} bytes")
            return
        path = self.folder / "base.qcow2"
        self.new(path, size, None)
        self.fill(path, size)
        if self.random.random() < 0.5:
            self.compress(path)
        self.files.append(path)

    def overlay(self, name, leaf=False):
        path = self.folder / name
        size = self.size if leaf else self.about_the_size()
        self.new(path, size, self.files[-1].name, leaf)
        self.fill(path, size, 3 if leaf else 6)
        self.files.append(path)
        return path

    def new(self, path, size, backing, leaf=False):
        bits = self.random.choice((9, 9, 10, 12, 14, 16, 16, 16, 16, 18, 21))
        options = {"cluster_size": 1 << bits}
        if self.random.random() < 0.25:
            options["compat"] = "0.10"
        else:
            options["refcount_bits"] = self.random.choice((16, 16, 1, 2, 4, 8, 32, 64))
            if self.random.random() < 0.2:
                options["lazy_refcounts"] = "on"
            if backing is None and self.random.random() < 0.3:
                options["compression_type"] = "zstd"
        if backing is None and self.random.random() < 0.3:
            options["preallocation"] = "metadata"
        images.create(path, size, backing, **options)
        self.story.append(f"{path.name} of {size} bytes on {backing}: {options}")

    def fill(self, path, size, most=6):
        """A few writes and zeroes at odd places."""
        version3 = "0.10" not in self.story[-1]
        commands = []
        for _ in range(self.random.randrange(0, most)):
            offset = self.random.randrange(0, size) // 512 * 512
            length = min(self.random.randrange(512, 500 * KIB) // 512 * 512, size - offset)
            if length <= 0:
                continue
            kind = self.random.random()
            if kind < 0.6:
                commands.append(f"write -P {self.random.randrange(1, 256)} {offset} {length}")
            elif kind < 0.75:
                commands.append(f"write -P 0 {offset} {length}")
            elif version3:
                commands.append(f"write -z{self.random.choice(('', ' -u'))} {offset} {length}")
        if commands:
            images.io(path, *commands)
            self.story += commands

    def compress(self, path):
        """The same content, its clusters compressed."""
        kind = images.info(path)["format-specific"]["data"].get("compression-type", "zlib")
        version = images.info(path)["format-specific"]["data"]["compat"]
        size = images.info(path)["cluster-size"]
        if size < 4096:
            return
        packed = path.with_suffix(".packed")
        images.tool("qemu-img", "convert", "-c", "-O", "qcow2", "-o",
                    f"cluster_size={size},compat={version}" + (f",compression_type={kind}" if version != "0.10" else ""),
                    path, packed)
        packed.rename(path)
        self.story.append(f"{path.name} compressed with {kind}")

    def bases(self):
        """What may stay: None (nothing), or the name of a file below the leaf."""
        return [None, None, *[file.name for file in self.files[:-1]]]
