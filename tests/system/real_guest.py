#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A real guest: QEMU (without KVM) boots Linux with its disk on imaged; it reads, writes, trims and checks its files while a job copies,
imaged is killed and started again, and the chain shrinks; then it boots from the leaf alone and finds everything."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

import images
from harness import check, check_equal, run, wait_until
from images import KIB, MIB
from nbd_server import Imaged
from system import System
from tiny_guest import TinyGuest, check_disk, make_disk

DISK = 160  # MiB
SLOWLY = MIB // 4  # a second: much of the 34 MiB is left when the guest has done half its work, however long its boot takes


def _make_base(place):
    files = place.path / "tree" / "files"
    files.mkdir(parents=True)
    for number in range(1, 31):
        (files / f"{number}.bin").write_bytes(images.pattern(MIB + number * 777, number))
    for number in range(1, 11):
        folder = files / "gone" / str(number)
        folder.mkdir(parents=True)
        (folder / "text").write_text(f"of file {number}\n" * 20000)
    return make_disk(place.path / "base.raw", place.path / "tree", DISK)


def a_guest_works_while_its_disk_is_streamed_and_imaged_dies(place):
    sums = _make_base(place)
    leaf = images.create(place.path / "leaf.qcow2", DISK * MIB, "base.raw")
    system = System(place, workers=2)
    server = Imaged(system, leaf)
    system.stream(speed=SLOWLY)
    guest = TinyGuest(place, place.run_dir / "nbd", "vda", "work", sums)
    guest.until("verified the base")
    guest.until("round 2")
    check(system.job() is not None, "the job ended before imaged was killed")
    check(server.system.imaged.kill(), "imaged was not alive")
    server.start()
    guest.until("round 6")
    system.client.call("block_job_set_speed", 20.0, device="vda", speed=0)
    event = system.wait_end("vda")
    check("error" not in event["data"], f"the job failed: {event['data'].get('error')}")
    guest.tell_enough()
    said = guest.end()
    wait_until(lambda: system.try_detach("vda"), "detaching", 20)
    images.check_clean(leaf)
    check_equal(images.info(leaf).get("backing-filename"), None, "backing file")
    (place.path / "base.raw").unlink()
    system.attach(leaf, device="again")
    again = TinyGuest(place, place.run_dir / "nbd", "again", "read")
    check_equal(again.end(), said, "the files at the second boot")
    wait_until(lambda: system.try_detach("again"), "detaching", 20)
    check_disk(images.flatten(leaf, place.path / "flat.raw"))
    print(f"# {said}; the leaf takes {images.disk_usage(leaf) // KIB} KiB")
    system.stop_all()


run(globals())
