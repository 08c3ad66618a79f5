# SPDX-License-Identifier: Apache-2.0
"""Image chains for tests, made and judged by QEMU's own tools."""

import json
import os
import pathlib
import subprocess

from harness import Failed, need

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def tool(*command, status=0, seconds=300):
    command = [str(part) for part in command]
    need(command[0])
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds)
    if status is not None and done.returncode != status:
        raise Failed(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout


def create(path, size=None, backing=None, backing_format=None, **options):
    """A qcow2 image; `backing` goes into the header exactly as given."""
    command = ["qemu-img", "create", "-q", "-f", "qcow2"]
    if options:
        command += ["-o", ",".join(f"{name}={value}" for name, value in options.items())]
    if backing is not None:
        command += ["-u", "-b", backing, "-F", backing_format or ("raw" if str(backing).endswith(".raw") else "qcow2")]
    command.append(path)
    if size is None:
        size = virtual_size(pathlib.Path(path).parent / backing)
    tool(*command, size)
    return pathlib.Path(path)


def create_raw(path, size, pieces=()):
    """A sparse raw file with (offset, bytes) pieces."""
    with open(path, "wb") as file:
        file.truncate(size)
        for offset, content in pieces:
            file.seek(offset)
            file.write(content)
    return pathlib.Path(path)


def io(path, *commands, file_format="qcow2"):
    """qemu-io commands: "write -P 1 0 64k", "write -z 0 64k", "discard 0 64k"."""
    command = ["qemu-io", "-f", file_format]
    for one in commands:
        command += ["-c", one]
    output = tool(*command, path)
    for word in ("failed", "error", "Pattern verification"):
        if word in output:
            raise Failed(f"qemu-io {commands} {path}:\n{output}")
    return output


def info(path):
    return json.loads(tool("qemu-img", "info", "-U", "--output=json", path))


def virtual_size(path):
    return info(path)["virtual-size"]


def flatten(path, target, file_format="qcow2"):
    """A raw copy of what the image reads as, made by qemu-img."""
    tool("qemu-img", "convert", "-f", file_format, "-O", "raw", path, target)
    return pathlib.Path(target)


def allocation(path):
    """[(start, length, present or zero by the image itself, depth)]: qemu-img map."""
    return json.loads(tool("qemu-img", "map", "-U", "--output=json", path))


def own_map(path, cluster=65536):
    """Offsets of clusters that the image itself holds (data or zero)."""
    found = set()
    for run in allocation(path):
        if run["depth"] == 0 and (run["data"] or run["zero"] and run.get("present", True)):
            first = run["start"] // cluster * cluster
            found.update(range(first, run["start"] + run["length"], cluster))
    return found


def check_clean(path):
    """qemu-img check: no error, no leak."""
    tool("qemu-img", "check", "-f", "qcow2", path)


def check_no_error(path, shared=False):
    """qemu-img check: no error; leaks are allowed (status 3).  `shared`: although somebody has it open for writing."""
    output = subprocess.run(["qemu-img", "check", *(["-U"] if shared else []), "-f", "qcow2", str(path)],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if output.returncode not in (0, 3):
        raise Failed(f"qemu-img check {path} ended with {output.returncode}:\n{output.stdout[-3000:]}")


def compare(path, reference, file_format="qcow2", reference_format="raw", shared=False):
    """Byte for byte, the whole size (a longer one must be zero there).  `shared`: although somebody has it open for writing."""
    tool("qemu-img", "compare", *(["-U"] if shared else []), "-f", file_format, "-F", reference_format, path, reference)


def digest(path):
    """Something that changes when the file's content does."""
    return subprocess.run(["sha256sum", str(path)], stdout=subprocess.PIPE, check=True).stdout[:64]


def pattern(length, seed):
    """Incompressible bytes, the same for the same seed."""
    import random
    draw, most = random.Random(seed), 64 * MIB  # randbytes takes less than 256 MiB
    return b"".join(draw.randbytes(min(most, length - done)) for done in range(0, length, most))


def disk_usage(path):
    return os.stat(path).st_blocks * 512
