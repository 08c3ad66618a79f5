#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Other people's NBD clients at work on a live image while a job copies into it: fio with verification, nbdcopy, nbdinfo, qemu-io and
qemu-img; and what they left behind, judged by qemu-img."""

import json
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

import images
from harness import check, check_equal, need, run, wait_until
from images import KIB, MIB
from nbd_server import Imaged
from system import System

SIZE = 48 * MIB
SLOWLY = 4 * MIB  # a job at this speed is there as long as the guests leave it something to copy


class Live:
    """A leaf over mid.qcow2 over base.raw, served; `twin` is a copy of it that nobody serves."""

    def __init__(self, place, **options):
        images.create_raw(place.path / "base.raw", SIZE, [(0, images.pattern(20 * MIB, 3)), (30 * MIB, images.pattern(6 * MIB, 4))])
        images.create(place.path / "mid.qcow2", SIZE, "base.raw", cluster_size=4 * KIB)
        images.io(place.path / "mid.qcow2", "write -P 77 4M 3M", "write -z 9M 2M", "write -c -P 9 16M 1M")
        self.leaf = images.create(place.path / "leaf.qcow2", SIZE, "mid.qcow2", **options)
        images.io(self.leaf, "write -P 5 1M 100k", "write -z 2M 128k", "write -c -P 6 4M 2M")
        self.twin = place.path / "twin.qcow2"
        shutil.copyfile(self.leaf, self.twin)
        self.place = place
        self.system = System(place, workers=2)
        self.server = Imaged(self.system, self.leaf)
        self.uri = self.server.uri

    def begin_job(self):
        self.system.stream(speed=SLOWLY)
        job = wait_until(self.system.job, "the job")
        check(SIZE - job["position"] > 12 * MIB, "the job is nearly done before the guests begin")

    def end(self, reference=None):
        """The job runs to its end; the leaf alone then reads as the twin, or as a raw reference."""
        if self.system.job():
            self.system.client.ask("block_job_set_speed", device="vda", speed=0)  # it may end right now
        event = self.system.wait_end("vda")
        check("error" not in event["data"], f"the job failed: {event['data'].get('error')}")
        wait_until(lambda: self.system.try_detach("vda"), "detaching", 20)  # the last client may just be leaving
        images.check_clean(self.leaf)
        check_equal(images.info(self.leaf).get("backing-filename"), None, "backing file")
        images.compare(self.leaf, reference or self.twin, reference_format="raw" if reference else "qcow2")
        self.system.stop_all()

    def content(self):
        target = self.place.path / "content.raw"
        return images.flatten(self.twin, target)


def fio_finds_all_that_it_wrote(place):
    live = Live(place)
    live.begin_job()
    place.call(need("fio"), "--name=guest", "--ioengine=nbd", f"--uri={live.uri}", "--rw=randrw", "--rwmixread=30", "--iodepth=8",
               "--bsrange=512-128k", "--blockalign=512", "--io_size=64M", f"--randseed={place.seed + 9}", "--verify=crc32c", "--do_verify=1",
               "--verify_fatal=1", "--verify_state_save=0", "--verify_backlog=200", "--fsync=64", f"--output={place.path}/fio.txt")
    check("err= 0" in (place.path / "fio.txt").read_text(), "fio found an error")
    written = images.tool("nbdcopy", live.uri, place.path / "after.raw")
    check_equal(written, "", "words of nbdcopy")
    live.end(place.path / "after.raw")


def nbdcopy_takes_out_the_whole_and_puts_it_back(place):
    live = Live(place)
    live.begin_job()
    reference = live.content()
    images.tool("nbdcopy", live.uri, place.path / "out.raw")
    images.compare(place.path / "out.raw", reference, file_format="raw")
    pieces = [(0, images.pattern(5 * MIB, 21)), (8 * MIB, bytes(4 * MIB)), (11 * MIB + 512, images.pattern(3 * MIB, 22)),
              (40 * MIB - 7, images.pattern(777, 23))]
    other = images.create_raw(place.path / "other.raw", SIZE, pieces)
    images.tool("nbdcopy", "--flush", other, live.uri)
    images.tool("nbdcopy", live.uri, place.path / "again.raw")
    images.compare(place.path / "again.raw", other, file_format="raw")
    live.end(other)


def nbdinfo_tells_zeroes_only_where_there_are_zeroes(place):
    live = Live(place)
    live.begin_job()
    content = live.content().read_bytes()
    found = json.loads(images.tool("nbdinfo", "--json", live.uri))["exports"][0]
    check_equal(found["export-size"], SIZE, "size")
    for name in ("can_multi_conn", "can_flush", "can_fua", "can_trim", "can_zero", "can_cache", "can_df"):
        check(found[name] or name == "can_df", f"{name} is not offered")
    at = zeroes = 0
    for extent in json.loads(images.tool("nbdinfo", "--map", "--json", live.uri)):
        check_equal(extent["offset"], at, "where the next extent begins")
        at += extent["length"]
        if extent["type"] & 2:
            zeroes += extent["length"]
            check(not any(content[extent["offset"]:at]), f"{extent} is not zero")
    check_equal(at, SIZE, "the end of the map")
    check(zeroes >= 8 * MIB, f"only {zeroes} bytes are told to be zero")
    live.end()


def _same_as_qemu(place, **options):
    """The same commands to the live image and, by QEMU itself, to its twin."""
    live = Live(place, **options)
    live.begin_job()
    version3 = options.get("compat") != "0.10"
    draw = place.random
    commands = ["write -P 1 0 64k", "write -P 2 65535 2", "write -P 3 1048064 1k", "write -z 131072 200k", "write -zu 400k 1M", "aio_flush",
                f"write -P 4 {SIZE - 512} 512", f"write -z {SIZE - 70 * KIB} 70k", "flush"]
    for _ in range(150):
        offset = draw.randrange(0, SIZE - 512)
        length = min(draw.choice((1, 511, 512, 4096, draw.randrange(1, 300 * KIB))), SIZE - offset)
        commands.append(draw.choice((f"write -P {draw.randrange(1, 256)}", f"write -f -P {draw.randrange(1, 256)}", "write -z", "write -zu"))
                        + f" {offset} {length}")
    if version3:  # whole clusters only: what else a discard clears is nobody's promise
        commands += [f"discard {draw.randrange(0, SIZE // (2 * MIB)) * 2 * MIB} 2M" for _ in range(4)]
    commands.append("flush")
    images.io(live.uri, *commands, file_format="raw")
    images.io(live.twin, *commands)
    images.compare(live.uri, live.twin, file_format="raw", reference_format="qcow2")
    live.end()


def qemu_io_leaves_the_same_as_on_an_image_of_its_own(place):
    _same_as_qemu(place)


def qemu_io_leaves_the_same_on_small_clusters(place):
    _same_as_qemu(place, cluster_size=512)


def qemu_io_leaves_the_same_on_large_clusters(place):
    _same_as_qemu(place, cluster_size=2 * MIB)


def qemu_io_leaves_the_same_on_version_two(place):
    _same_as_qemu(place, compat="0.10")


run(globals())
