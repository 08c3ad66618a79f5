#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Images that cannot be served, through the whole system: each is refused with the error class of the contract and one line in the
log, everybody lives on, no file is changed, and a good image works after it as before."""

import os
import shutil
import struct
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

import images
from harness import Failed, check, check_equal, run, wait_until
from images import KIB, MIB
from system import Judge, System

CLUSTER = 64 * KIB
LUKS = 2  # an encryption method of the header
ENCRYPTION_HEADER = 0x0537be77  # a header extension


class Stage:
    """The system over one folder, and a good image that is streamed after each bad one."""

    def __init__(self, place):
        self.place = place
        self.folder = place.path / "images"
        self.folder.mkdir()
        self.outside = place.path / "outside"
        self.outside.mkdir()
        images.create_raw(self.folder / "base.raw", MIB, [(0, b"b" * 300 * KIB)])
        self.system = System(place, root=self.folder)
        wait_until(lambda: "welcomed" in self.system.imaged.err_text(), "imaged's welcome")
        self.good = 0

    def image(self, name="bad.qcow2", backing="base.raw", **options):
        """A qcow2 with some data of its own."""
        path = images.create(self.folder / name, MIB, "base.raw", **options)
        images.io(path, "write -P 5 128k 128k")
        if backing != "base.raw":  # whether or not there is such a file
            images.tool("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", backing, "-F",
                        "qcow2" if backing.endswith(".qcow2") else "raw", path)
        return path

    def log_lines(self):
        return [line for process in (self.system.broker, self.system.imaged, *self.system.workers)
                for line in process.err_path.read_text(errors="replace").splitlines()]

    def files(self):
        return {path: images.digest(path) for path in self.folder.iterdir() if path.is_file()}

    def refused(self, file, error_class, *words, **arguments):
        """Attaching it gives that class, with these words; one line in the log; nothing else."""
        lines, files = self.log_lines(), self.files()
        error = self.system.client.fails("device-attach", device="bad", file=str(file), **arguments)
        check_equal(error.error_class, error_class, f"class of '{error.desc}'")
        for word in words:
            check(word in error.desc, f"'{word}' is not in '{error.desc}'")
        check("\n" not in error.desc and len(error.desc) < 2048, f"a strange sentence: {error.desc}")
        wait_until(lambda: len(self.log_lines()) > len(lines), "a line in the log")
        self.works()
        more = [line for line in self.log_lines() if line not in lines and "device=bad" in line]
        check_equal(len(more), 1, f"lines in the log: {more}")
        check_equal({path: digest for path, digest in self.files().items() if path in files}, files, "the files")
        check("bad" not in [device["device"] for device in self.system.client.call("query-devices")], "it is listed")

    def works(self):
        """All live, and a good image is attached, streamed and detached."""
        for process in (self.system.broker, self.system.imaged, *self.system.workers):
            process.check_alive()
        self.good += 1
        leaf = images.create(self.place.path / "images" / f"good{self.good}.qcow2", MIB, "base.raw")
        judge = Judge(self.place, leaf)
        self.system.attach(leaf, device="good")
        self.system.complete("good", job_id=f"good-{self.good}")
        self.system.detach("good")
        judge.judge()
        leaf.unlink()
        judge.reference.unlink()


def _patch(path, offset, layout, *values):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(struct.pack(layout, *values))


def _read(path, offset, layout):
    with open(path, "rb") as file:
        file.seek(offset)
        return struct.unpack(layout, file.read(struct.calcsize(layout)))[0]


def a_header_that_points_outside_the_file(place):
    stage = Stage(place)
    for name, at, layout, value in (("l1", 40, ">Q", 1 << 40), ("refcounts", 48, ">Q", 1 << 40), ("l1-odd", 40, ">Q", 513),
                                    ("l1-huge", 36, ">I", 0xffffffff), ("l1-wrap", 40, ">Q", (1 << 64) - CLUSTER),
                                    ("refcounts-huge", 56, ">I", 0xffffffff)):
        path = stage.image(f"{name}.qcow2")
        _patch(path, at, layout, value)
        stage.refused(path, "GenericError")


def a_header_that_points_into_its_own_metadata(place):
    stage = Stage(place)
    for name, at, source in (("l1-in-refcounts", 40, 48), ("refcounts-in-l1", 48, 40), ("l1-in-header", 40, None)):
        path = stage.image(f"{name}.qcow2")
        _patch(path, at, ">Q", _read(path, source, ">Q") if source else 0)
        stage.refused(path, "GenericError")


def tables_that_point_outside_the_file_or_into_metadata(place):
    """Not the header but what it points to: refused when it is attached, or when a job comes to it; never followed."""
    stage = Stage(place)
    for name, value in (("beyond", 1 << 40), ("header", 0), ("l1", None), ("refcounts", 48)):
        path = stage.image(f"l2-{name}.qcow2", backing="base.raw")
        l1 = _read(path, 40, ">Q")
        target = l1 if value is None else _read(path, 48, ">Q") if value == 48 else value
        _patch(path, l1, ">Q", (1 << 63) | (target or 1 << 9))
        before = images.digest(path)
        answer = stage.system.client.ask("device-attach", device="bad", file=str(path))
        if "return" in answer:
            _job_fails_or_is_refused(stage)
        else:
            check_equal(answer["error"]["class"], "GenericError", f"class of '{answer['error']['desc']}'")
        check_equal(images.digest(path), before, f"{path.name}")
        stage.works()


def _job_fails_or_is_refused(stage):
    stage.good += 1
    job = f"bad-{stage.good}"
    answer = stage.system.client.ask("block_stream", device="bad", job_id=job)
    if "return" in answer:
        event = stage.system.wait_end(job)
        check_equal(event["event"], "BLOCK_JOB_COMPLETED", "end")
        check("error" in event["data"], "a job on a damaged image ended well")
        check_equal((event["data"]["error-class"], event["data"]["errno"]), ("StreamingError", "EIO"),
                    f"class of '{event['data']['error']}'")
    wait_until(lambda: stage.system.try_detach("bad"), "detaching", 20)


def a_loop_of_backing_files(place):
    stage = Stage(place)
    stage.image("one.qcow2", "two.qcow2")
    stage.image("two.qcow2", "three.qcow2")
    stage.image("three.qcow2", "two.qcow2")
    stage.refused(stage.folder / "one.qcow2", "GenericError", "two.qcow2")
    stage.image("self.qcow2", "self.qcow2")
    stage.refused(stage.folder / "self.qcow2", "GenericError")


def files_outside_the_roots(place):
    stage = Stage(place)
    secret = images.create_raw(stage.outside / "secret.raw", MIB, [(0, b"secret" * 100)])
    leaf = images.create(stage.outside / "leaf.qcow2", MIB)
    for name, backing in (("absolute", secret), ("dots", "../outside/secret.raw"), ("etc", "/etc/passwd"),
                          ("proc", "/proc/self/environ"), ("dev", "/dev/zero")):
        stage.refused(stage.image(f"{name}.qcow2", str(backing)), "GenericError", "root")
    stage.refused(leaf, "GenericError", "root")
    stage.refused("/etc/passwd", "GenericError", "root")
    stage.refused("../outside/leaf.qcow2", "GenericError")


def symbolic_links_that_lead_out(place):
    stage = Stage(place)
    secret = images.create_raw(stage.outside / "secret.raw", MIB, [(0, b"secret" * 100)])
    (stage.folder / "link.raw").symlink_to(secret)
    (stage.folder / "relative.raw").symlink_to("../outside/secret.raw")
    (stage.folder / "folder").symlink_to(stage.outside)
    (stage.folder / "inside.raw").symlink_to("base.raw")
    for name in ("link.raw", "relative.raw", "folder/secret.raw"):
        stage.refused(stage.image(f"{name.replace('/', '-')}.qcow2", name), "GenericError", "root")
        stage.refused(stage.folder / name, "GenericError", "root")
    path = stage.image("good-link.qcow2", "inside.raw")
    judge = Judge(place, path)
    stage.system.attach(path)
    stage.system.complete()
    stage.system.detach()
    judge.judge()


def images_that_were_cut(place):
    stage = Stage(place)
    whole = stage.image("whole.qcow2").read_bytes()
    for length in (0, 3, 4, 40, 71, 103, 300, CLUSTER, 2 * CLUSTER, 3 * CLUSTER + 100, 4 * CLUSTER):
        path = stage.folder / f"cut-{length}.qcow2"
        path.write_bytes(whole[:length])
        answer = stage.system.client.ask("device-attach", device="bad", file=str(path), format="qcow2")
        if "return" in answer:  # what the header needs is there; a table is not
            _job_fails_or_is_refused(stage)
        else:
            check_equal(answer["error"]["class"], "GenericError", f"class for {length} bytes")
        check_equal(path.read_bytes(), whole[:length], f"{path.name}")
    stage.works()
    path = stage.folder / "short.qcow2"
    path.write_bytes(whole[:100])
    stage.refused(path, "GenericError", "header")


def names_without_a_format_and_json_names(place):
    stage = Stage(place)
    path = stage.image("no-format.qcow2")
    images.tool("qemu-img", "create", "-q", "-f", "qcow2", path, MIB)
    header = bytearray(path.read_bytes())
    name = b"base.raw"
    header[8:20] = struct.pack(">QI", 512, len(name))
    header[512:512 + len(name)] = name
    path.write_bytes(header)
    check_equal(images.info(path).get("backing-filename-format"), None, "format in the header")
    stage.refused(path, "GenericError", "qemu-img rebase -u -F", "base.raw")
    json_name = 'json:{"driver":"raw","file":{"driver":"file","filename":"base.raw"}}'
    path = stage.image("json.qcow2")
    subprocess.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", json_name, str(path)], check=True)
    stage.refused(path, "GenericError", "qemu-img rebase -u -F")


def features_that_are_not_supported(place):
    stage = Stage(place)
    path = stage.image("corrupt.qcow2")
    _patch(path, 72, ">Q", 2)
    stage.refused(path, "NotSupported", "corrupt")
    path = stage.image("unknown.qcow2")
    _patch(path, 72, ">Q", 1 << 40)
    stage.refused(path, "NotSupported", "40")
    path = stage.image("extended.qcow2", extended_l2="on", cluster_size="128k")
    stage.refused(path, "NotSupported", "extended L2")
    images.tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={stage.folder}/data.raw,data_file_raw=on",
                stage.folder / "external.qcow2", "1M")
    stage.refused(stage.folder / "external.qcow2", "NotSupported", "external data file")
    aes = stage.folder / "aes.qcow2"
    images.tool("qemu-img", "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=abc", "-o",
                "encrypt.format=aes,encrypt.key-secret=s", aes, "1M")
    stage.refused(aes, "NotSupported", "AES encryption")
    # LUKS by hand: creating one begins with a measurement of the processor, which a busy machine makes fail
    luks = stage.folder / "luks.qcow2"
    shutil.copy(aes, luks)
    _patch(luks, 32, ">I", LUKS)
    _patch(luks, 112, ">IIQQQ", ENCRYPTION_HEADER, 16, luks.stat().st_size, CLUSTER, 0)
    os.truncate(luks, luks.stat().st_size + CLUSTER)
    stage.refused(luks, "NotSupported", "LUKS encryption")
    path = stage.image("version.qcow2")
    _patch(path, 4, ">I", 4)
    stage.refused(path, "NotSupported", "version")
    # the same below a good leaf
    below = stage.image("below.qcow2")
    _patch(below, 72, ">Q", 2)
    stage.refused(stage.image("above.qcow2", "below.qcow2"), "NotSupported", "corrupt", "below.qcow2")


def files_that_are_none(place):
    stage = Stage(place)
    stage.refused(stage.folder / "missing.qcow2", "GenericError", "No such file")
    stage.refused(stage.image("orphan.qcow2", "missing.raw"), "GenericError", "missing.raw", "No such file")
    stage.refused(stage.folder, "GenericError")
    os.mkfifo(stage.folder / "fifo")
    stage.refused(stage.folder / "fifo", "GenericError")
    stage.refused(stage.image("on-fifo.qcow2", "fifo"), "GenericError")
    stage.refused(stage.folder / "base.raw", "GenericError", format="qcow2")
    error = stage.system.client.fails("device-attach", device="bad", file=str(stage.folder / "base.raw"), format="vmdk")
    check_equal(error.error_class, "GenericError", "class for an unknown format")
    check("format" in error.desc, error.desc)
    rubbish = stage.folder / "rubbish.qcow2"
    for number in range(20):
        rubbish.write_bytes(b"QFI\xfb" + struct.pack(">I", place.random.choice((2, 3))) + place.random.randbytes(1000))
        answer = stage.system.client.ask("device-attach", device="bad", file=str(rubbish))
        if "return" in answer:
            raise Failed(f"rubbish was attached (seed {place.seed}, number {number})")
    stage.works()


run(globals())
