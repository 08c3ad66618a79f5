#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A file system that fills up in the middle of a job: the job fails with words, the leaf stays valid, a new job finishes."""

import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

import images
from harness import Skip, check, check_equal, run
from images import MIB
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
    # somebody else takes the space that the check had found
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(MIB))
        except OSError:
            pass
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


run(globals())
