#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A file system that fills up in the middle of a job: the job fails with words, the leaf stays valid, a new job finishes."""

import errno
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

import images
import nbd_client
from harness import Skip, check, check_equal, run, wait_until
from images import KIB, MIB
from nbd_client import Guest
from system import Judge, System


def _small_disk(place, size):
    """A tmpfs of that size, unmounted at the end."""
    if os.getuid() != 0:
        raise Skip("mounting wants root")
    folder = place.path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], stderr=subprocess.PIPE)
    if done.returncode != 0:
        raise Skip(f"no tmpfs here: {done.stderr.decode().strip()}")
    place.finally_do(lambda: subprocess.run(["umount", "-l", folder], check=True))
    return folder


def _take_all(folder):
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(MIB))
        except OSError:
            return ballast


def a_copy_that_cannot_fit_is_refused(place):
    folder = _small_disk(place, 16 * MIB)
    base = images.create_raw(place.path / "base.raw", 64 * MIB, [(0, images.pattern(64 * MIB, 1))])
    leaf = images.create(folder / "leaf.qcow2", 64 * MIB, str(base))
    system = System(place)
    system.attach(leaf)
    error = system.client.fails("block_stream", device="vda")
    check_equal(error.error_class, "NoSpace", "class")
    check_equal(system.client.call("query-block-jobs"), [], "jobs")


def a_disk_that_fills_up_fails_the_job_and_a_new_one_finishes(place):
    folder = _small_disk(place, 64 * MIB)
    base = images.create_raw(place.path / "base.raw", 48 * MIB, [(0, images.pattern(48 * MIB, 1))])
    leaf = images.create(folder / "leaf.qcow2", 48 * MIB, str(base))
    judge = Judge(place, leaf, [base])
    system = System(place)
    system.attach(leaf)
    system.stream(speed=16 * MIB)
    ballast = _take_all(folder)  # somebody else takes the space that the check had found
    event = system.wait_end(seconds=60)
    check_equal(event["event"], "BLOCK_JOB_COMPLETED", "end")
    check_equal(event["data"].get("error-class"), "NoSpace", "class of the error")
    check_equal(event["data"].get("errno"), "ENOSPC", "errno")
    check("No space left" in event["data"]["error"], f"the error does not say so: {event['data']['error']}")
    errors = system.client.all_events(event="BLOCK_JOB_ERROR")
    check_equal([(error["data"]["operation"], error["data"]["action"]) for error in errors], [("write", "report")], "errors")
    system.detach()
    images.check_no_error(leaf)
    images.compare(leaf, judge.reference)
    check_equal(images.info(leaf)["backing-filename"], str(base), "backing file")
    ballast.unlink()
    system.attach(leaf)
    system.complete()
    system.stop_all()
    judge.judge()


def what_guests_wrote_is_in_the_image_when_it_is_detached(place):
    """A guest's answered writes wait for tables that find no room: until there is some, the device stays."""
    folder = _small_disk(place, 16 * MIB)
    span = 4 * KIB * (4 * KIB // 8)  # of the disk, what one table of clusters of 4 KiB serves
    leaf = images.create(folder / "leaf.qcow2", 4096 * span, cluster_size="4k")
    system = System(place, workers=0)
    system.attach(leaf)
    device = system.client.call("query-devices")[0]
    with Guest(device["nbd"]) as guest:
        guest.write(b"first".ljust(4 * KIB), 0, fua=True)
        ballast = _take_all(folder)
        written = 0
        while _is_written(guest, (written + 1) * span):
            written += 1
        check(written > 0, "nothing was written")
    wait_until(lambda: not _is_in_use(system), "the guest to have left")
    error = system.client.fails("device-detach", device="vda")
    check_equal(error.error_class, "NoSpace", f"class of '{error.desc}'")
    ballast.unlink()
    system.detach()
    system.stop_all()
    images.check_clean(leaf)
    flat = images.flatten(leaf, place.path / "flat.raw")
    with open(flat, "rb") as file:
        for number in range(1, written + 1):
            file.seek(number * span)
            check_equal(file.read(9), b"%09d" % (number * span), f"write {number} of {written}")


def _is_written(guest, offset):
    try:
        guest.write((b"%09d" % offset).ljust(4 * KIB), offset)
    except nbd_client.nbd.Error as error:
        check_equal(error.errnum, errno.ENOSPC, "what a guest is told")
        return False
    return True


def _is_in_use(system):
    answer = system.client.ask("device-detach", device="vda")
    check("error" in answer, "it was detached although not all could be written")
    return answer["error"]["class"] == "DeviceInUse"


run(globals())
