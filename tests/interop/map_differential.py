#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Random chains made by qemu-img and qemu-io, read by our engine and by qemu-img convert: the bytes must be the same.

    map_differential.py --chain-read PROGRAM [--chains N] [--seed S] [--keep]

Each chain is made from a seed of its own, which is printed when it fails; `--chains 1 --seed S` makes that chain again.
Every file of a chain is read as a leaf, with requests of random length, so that each border of each kind is met; at last the
chain is damaged, and then must be read or refused."""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from engine_judge import work_folder  # noqa: E402

CLUSTER_SIZES = [512 << i for i in range(13)]


class Failure(Exception):
    pass


def run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise Failure(f"{' '.join(command)}\n{done.stdout}")
    return done.stdout


class Layer:
    """One file, with what its writes must keep to."""

    def __init__(self, path, size, cluster_size):
        self.path = path
        self.size = size
        self.cluster_size = cluster_size
        self.format = "qcow2"


def make_raw(dice, path):
    layer = Layer(path, dice.randrange(1, 6 << 20), 512)
    layer.format = "raw"
    with open(path, "wb") as file:
        file.truncate(layer.size)
        for _ in range(dice.randrange(0, 8)):
            offset = dice.randrange(layer.size)
            length = min(dice.randrange(1, 1 << dice.randrange(4, 20)), layer.size - offset)
            file.seek(offset)
            file.write(dice.randbytes(length) if dice.random() < 0.7 else bytes(length))
    return layer


def options_for(dice, cluster_size, has_backing):
    options = [f"cluster_size={cluster_size}"]
    if dice.random() < 0.25:
        options.append("compat=0.10")
    else:
        options.append("compat=1.1")
        options.append(f"refcount_bits={1 << dice.randrange(7)}")
        if dice.random() < 0.3:
            options.append("lazy_refcounts=on")
        if dice.random() < 0.4:
            options.append("compression_type=zstd")
    if not has_backing and dice.random() < 0.4:
        options.append("preallocation=" + dice.choice(["metadata", "falloc", "full"]))
    return options


def choose_size(dice, cluster_size, below):
    largest = min(8 << 20, cluster_size * cluster_size * 40)
    if below and dice.random() < 0.4:
        return max(512, below.size // 512 * 512)
    if dice.random() < 0.03:
        return 0
    return max(512, dice.randrange(largest) // 512 * 512)


def random_write(dice, layer, folder):
    """One command for qemu-io.  Compressed writes are of whole clusters."""
    kind = dice.choice(["pattern", "pattern", "file", "zero", "unmap", "discard", "compressed", "compressed-file"])
    if kind.startswith("compressed"):
        clusters = layer.size // layer.cluster_size
        if clusters == 0:
            return None
        first = dice.randrange(clusters)
        offset = first * layer.cluster_size
        length = min(dice.randrange(1, 9), clusters - first) * layer.cluster_size
    else:
        offset = dice.randrange(layer.size // 512) * 512
        length = min(dice.randrange(1, 1 << dice.randrange(1, 11)) * 512, layer.size - offset)
        if dice.random() < 0.3:
            offset = offset // layer.cluster_size * layer.cluster_size
    pattern = dice.randrange(256)
    source = os.path.join(folder, "noise")
    return {
        "pattern": f"write -P {pattern} {offset} {length}",
        "file": f"write -s {source} {offset} {length}",
        "zero": f"write -z {offset} {length}",
        "unmap": f"write -z -u {offset} {length}",
        "discard": f"discard {offset} {length}",
        "compressed": f"write -c -P {pattern} {offset} {length}",
        "compressed-file": f"write -c -s {source} {offset} {length}",
    }[kind]


def fill(dice, layer, folder):
    commands = []
    for _ in range(dice.randrange(0, 30)):
        command = random_write(dice, layer, folder) if layer.size else None
        if command:
            commands += ["-c", command]
    if commands:
        # A compressed write over data that is there already fails; that it fails is QEMU's affair.
        subprocess.run(["qemu-io", "-d", "unmap", "-f", "qcow2", *commands, layer.path], stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, check=False)


def make_qcow2(dice, folder, name, below):
    cluster_size = dice.choice(CLUSTER_SIZES)
    path = os.path.join(folder, name)
    layer = Layer(path, choose_size(dice, cluster_size, below), cluster_size)
    options = ",".join(options_for(dice, cluster_size, below is not None))
    backing = []
    if below:
        called = below.path if dice.random() < 0.3 else os.path.basename(below.path)
        backing = ["-F", below.format, "-b", called]
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, *backing, path, str(layer.size))
    fill(dice, layer, folder)
    if dice.random() < 0.15:
        # Fails where a refcount is too narrow for two users; then there is no snapshot, which is as good.
        subprocess.run(["qemu-img", "snapshot", "-c", "before", path], stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, check=False)
        fill(dice, layer, folder)
    return layer


def convert_compressed(dice, folder, name, source):
    """The whole content of `source` as one compressed image without backing."""
    cluster_size = dice.choice(CLUSTER_SIZES)
    path = os.path.join(folder, name)
    kind = dice.choice(["zlib", "zstd"])
    command = ["qemu-img", "convert", "-c", "-f", source.format, "-O", "qcow2", "-o",
               f"cluster_size={cluster_size},compression_type={kind}", source.path, path]
    if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode != 0:
        return source  # QEMU cannot read what it wrote, see is_corrupt()
    return Layer(path, (source.size + 511) // 512 * 512, cluster_size)


def make_chain(dice, folder):
    with open(os.path.join(folder, "noise"), "wb") as file:
        file.write(dice.randbytes(100_003))
    layers = []
    if dice.random() < 0.6:
        layers.append(make_raw(dice, os.path.join(folder, "base.raw")))
    for i in range(dice.randrange(1, 6)):
        layers.append(make_qcow2(dice, folder, f"layer{i}.qcow2", layers[-1] if layers else None))
        if dice.random() < 0.1:
            layers = [convert_compressed(dice, folder, f"flat{i}.qcow2", layers[-1])]
    if layers[-1].format == "raw":
        layers.append(make_qcow2(dice, folder, "top.qcow2", layers[-1]))
    return layers


def same_files(one, other):
    return subprocess.run(["cmp", one, other], stdout=subprocess.DEVNULL, check=False).returncode == 0


def compare(layer, folder, chain_read, asks):
    ours, theirs = os.path.join(folder, "ours"), os.path.join(folder, "theirs")
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", layer.path, theirs)
    run(chain_read, *asks, layer.path, ours)
    if not same_files(ours, theirs):
        raise Failure(f"{layer.path} reads differently with {asks}")


def is_corrupt(layer):
    """QEMU 7.2 overflows narrow refcounts with compressed clusters, and then overwrites some of them, or notices and sets the bit."""
    info = subprocess.run(["qemu-img", "info", "--output=json", layer.path], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, check=False)
    if info.returncode == 0 and json.loads(info.stdout)["format-specific"]["data"].get("corrupt"):
        return True
    checked = subprocess.run(["qemu-img", "check", "-q", layer.path], stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, check=False)
    return checked.returncode == 2


def judge(dice, layers, folder, chain_read):
    """The number of leaves that read alike, and of those that QEMU broke itself: reading these may fail, but not crash."""
    alike = broken = 0
    for layer in [layer for layer in layers if layer.format == "qcow2"]:
        asks = ["--seed", str(dice.randrange(1 << 31))]
        try:
            compare(layer, folder, chain_read, [])
            compare(layer, folder, chain_read, asks)
            alike += 1
        except Failure:
            if not any(is_corrupt(any_layer) for any_layer in layers if any_layer.format == "qcow2"):
                raise
            done = subprocess.run([chain_read, *asks, layer.path, os.path.join(folder, "ours")], text=True,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
            if done.returncode not in (0, 1) or "Sanitizer" in done.stderr:
                raise
            broken += 1
    return alike, broken


def damage(dice, layer):
    """Flips some bits in the part of the file where most metadata is."""
    with open(layer.path, "r+b") as file:
        end = min(os.path.getsize(layer.path), 40 * layer.cluster_size)
        for _ in range(dice.randrange(1, 6)):
            offset = dice.choice([dice.randrange(200), dice.randrange(end)])
            file.seek(offset)
            byte = file.read(1)[0] ^ 1 << dice.randrange(8)
            file.seek(offset)
            file.write(bytes([byte]))


def survive(dice, layers, folder, chain_read):
    """Damaged files are read or refused, within seconds, without a crash."""
    damage(dice, dice.choice([layer for layer in layers if layer.format == "qcow2"]))
    done = subprocess.run([chain_read, "--seed", "1", layers[-1].path, os.path.join(folder, "ours")], text=True, timeout=60,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    if done.returncode not in (0, 1) or "Sanitizer" in done.stderr:
        raise Failure(f"{layers[-1].path}, damaged, ends the reader with {done.returncode}: {done.stderr}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--chain-read", required=True)
    parser.add_argument("--chains", type=int, default=40)
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SLUICE_TEST_SEED", "1")))
    parser.add_argument("--keep", action="store_true", help="keep the files of a chain that failed")
    arguments = parser.parse_args()
    if not shutil.which("qemu-img") or not shutil.which("qemu-io"):
        print("skipped: qemu-img and qemu-io are not installed")
        return 77
    with work_folder() as place:  # QEMU flushes each file that it makes or closes, which is not what is judged
        return try_chains(arguments, None if arguments.keep else place)


def try_chains(arguments, place):
    started, alike, broken = time.monotonic(), 0, 0
    print(f"seeds {arguments.seed} to {arguments.seed + arguments.chains - 1}")
    for seed in range(arguments.seed, arguments.seed + arguments.chains):
        folder = tempfile.mkdtemp(prefix="sluice-map-", dir=place)
        dice = random.Random(seed)
        try:
            layers = make_chain(dice, folder)
            counts = judge(dice, layers, folder, arguments.chain_read)
            for _ in range(5):
                survive(dice, layers, folder, arguments.chain_read)
            alike, broken = alike + counts[0], broken + counts[1]
        except Failure as failure:
            print(f"FAILED with seed {seed}: {failure}", file=sys.stderr)
            if arguments.keep:
                print(f"files are in {folder}", file=sys.stderr)
                folder = None
            return 1
        finally:
            if folder:
                shutil.rmtree(folder)
    print(f"{arguments.chains} chains in {time.monotonic() - started:.1f} s: {alike} leaves read alike, "
          f"{broken} were broken by QEMU itself")
    return 0


if __name__ == "__main__":
    sys.exit(main())
