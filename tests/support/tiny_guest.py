# SPDX-License-Identifier: Apache-2.0
"""A whole guest without KVM: QEMU, Debian's own kernel (unpacked, not installed; kept in the build folder between runs) and an initial
file system made here of busybox, the few modules it needs and guest_init.sh."""

import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile

from harness import Failed, Skip, need, wait_until

HERE = pathlib.Path(__file__).resolve().parent
WANTED = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")  # those that are built in are left out
BAD = re.compile(r"GUEST FAILED.*|.*I/O error.*|.*EXT4-fs (?:error|warning).*|Kernel panic.*")


def kernel():
    """(the kernel, the folder with its modules); downloaded at the first time."""
    build = os.environ.get("SLUICE_BUILD")
    cache = (pathlib.Path(build).parent if build else HERE.parent.parent / "build") / "guest-kernel"
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="guest-kernel-", dir=cache.parent) as folder:
            _download(pathlib.Path(folder))
            (pathlib.Path(folder) / "root").rename(cache)
    return next((cache / "boot").glob("vmlinuz-*")), next((cache / "lib/modules").iterdir())


def _download(folder):
    listed = subprocess.run(["apt-cache", "depends", "linux-image-cloud-amd64"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    names = re.findall(r"Depends: (linux-image-\S+)", listed.stdout)
    if not names:
        raise Skip("apt knows no linux-image-cloud-amd64 (apt-get update may help)")
    done = subprocess.run(["apt-get", "download", "-q", names[0]], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    packages = list(folder.glob("*.deb"))
    if done.returncode or not packages:
        raise Skip(f"the package {names[0]} can't be had: {done.stdout.strip()[-200:]}")
    (folder / "root").mkdir()
    subprocess.run(["dpkg-deb", "-x", packages[0], folder / "root"], check=True)


def _modules(folder):
    """What must be loaded, in order."""
    files = {path.stem.replace("-", "_"): path for path in folder.rglob("*.ko")}
    order = []

    def add(name):
        path = files.get(name)
        if path and path not in order:
            found = re.search(rb"depends=([^\0]*)\0", path.read_bytes())
            for one in (found.group(1).decode().split(",") if found else []):
                add(one.replace("-", "_"))
            order.append(path)
    for name in WANTED:
        add(name)
    return order


class Archive:
    """What the kernel takes as its first file system ("newc")."""

    def __init__(self):
        self.content = bytearray()
        self.number = 0

    def add(self, name, content=b"", mode=0o100755):
        self.number += 1
        fields = (self.number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        self.content += b"070701" + "".join(f"{field:08x}" for field in fields).encode() + name.encode() + b"\0"
        self.content += bytes(-len(self.content) % 4) + content
        self.content += bytes(-len(self.content) % 4)

    def write(self, path):
        self.add("TRAILER!!!", mode=0)
        path.write_bytes(self.content)


def initial_files(path, modules, sums):
    archive = Archive()
    for folder in ("bin", "proc", "sys", "dev", "mnt", "tmp", "modules"):
        archive.add(folder, mode=0o040755)
    archive.add("bin/busybox", pathlib.Path(need("busybox")).read_bytes())
    archive.add("init", (HERE / "guest_init.sh").read_bytes())
    order = _modules(modules)
    for module in order:
        archive.add(f"modules/{module.name}", module.read_bytes())
    archive.add("modules/order", "".join(f"{module.name}\n" for module in order).encode())
    archive.add("sums", sums.encode())
    archive.write(path)


class TinyGuest:
    """One boot with the disk at `uri`, for `phase`.  Its console is what it has said so far."""

    count = 0

    def __init__(self, place, server, export, phase, sums=""):
        image, modules = kernel()
        files = place.path / "initial"
        initial_files(files, modules, sums)
        TinyGuest.count += 1
        self.port = place.path / f"guest.{TinyGuest.count}.port"
        self.process = place.start_other(
            f"guest.{TinyGuest.count}", need("qemu-system-x86_64"), "-machine", "accel=tcg", "-m", "256", "-nographic", "-no-reboot", "-nodefaults",
            "-serial", "stdio", "-serial", f"unix:{self.port},server=on,wait=off", "-kernel", image, "-initrd", files, "-append", f"console=ttyS0 quiet panic=-1 phase={phase}",
            "-blockdev", f"driver=nbd,node-name=disk,server.type=unix,server.path={server},export={export},reconnect-delay=30,discard=unmap",
            "-device", "virtio-blk-pci,drive=disk")

    def console(self):
        return self.process.out_text().replace("\r", "")

    def until(self, words, seconds=60.0):
        """Fails at once when something goes wrong meanwhile."""
        def said():
            text = self.console()
            bad = BAD.search(text)
            if bad:
                raise Failed(f"{bad.group(0)}\n{text[-3000:]}")
            if f"GUEST {words}" not in text and not self.process.is_alive():
                raise Failed(f"the guest ended before it said '{words}':\n{text[-3000:]}{self.process.err_text()}")
            return f"GUEST {words}" in text
        try:
            wait_until(said, f"the guest to say '{words}'", seconds, every=0.05)
        except Failed as failure:
            raise Failed(f"{failure}\n{self.console()[-3000:]}") from failure

    def tell_enough(self):
        """It may go on to its last steps."""
        with socket.socket(socket.AF_UNIX) as port:
            port.connect(str(self.port))
            port.sendall(b"enough\n")

    def end(self, seconds=60.0):
        """It powers off; returns what it says about its files."""
        self.until("done", seconds)
        if self.process.wait(20.0):
            raise Failed(f"QEMU ended badly:\n{self.process.err_text()}")
        return re.search(r"GUEST sums (.*)", self.console()).group(1)


def make_disk(path, folder, mebibytes):
    """An ext4 file system with the files of a folder; returns their sums as md5sum would print them."""
    mkfs = shutil.which("mkfs.ext4") or shutil.which("mkfs.ext4", path="/sbin:/usr/sbin")
    if not mkfs:
        raise Skip("mkfs.ext4 is not installed")
    subprocess.run([mkfs, "-q", "-d", folder, path, f"{mebibytes}M"], check=True, stderr=subprocess.DEVNULL)
    return subprocess.run("find . -type f | sort | xargs md5sum", shell=True, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


def check_disk(raw):
    """fsck finds nothing in the flattened image."""
    fsck = shutil.which("e2fsck") or shutil.which("e2fsck", path="/sbin:/usr/sbin")
    done = subprocess.run([fsck, "-fn", raw], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise Failed(f"e2fsck ended with {done.returncode}:\n{done.stdout[-3000:]}")
