#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""imaged is ended at its n-th write or sync to the leaf, for every n, from the attaching to the end of a job (a preloaded library does it).
Each time the next imaged goes on and the job ends by itself, once, with the right leaf.

With base and without, so that the header gets a new name and none.  SLUICE_BUILD names the build folder that holds the library."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

import images
from harness import Skip, check, check_equal, run, wait_until
from images import KIB, MIB
from system import Judge, System

LIBRARY = os.path.join(os.environ.get("SLUICE_BUILD", ""), "tests/kill_after.so")
MOST = 200  # a finish that needs more writes than this has lost its way
STEP = int(os.environ.get("SLUICE_TEST_STEP", "1"))


def _every_kill(place, base_argument, mode):
    if not os.path.exists(LIBRARY):
        raise Skip("SLUICE_BUILD does not name a build folder")
    base = images.create_raw(place.path / "base.raw", MIB, [(0, images.pattern(200 * KIB, 1)), (700 * KIB, b"z" * 9000)])
    mid = images.create(place.path / "mid.qcow2", MIB, "base.raw")
    images.io(mid, "write -P 7 512k 100k", "write -z 0 64k")
    images.create(place.path / "leaf.qcow2", MIB, "mid.qcow2")
    system = System(place, workers=1)
    system.imaged.stop()
    died = 0
    for number in range(1, MOST, STEP):
        device = f"d{number}"
        leaf = images.create(place.path / f"{device}.qcow2", MIB, "mid.qcow2")
        judge = Judge(place, leaf, [base, mid])
        victim = system.start_imaged({"LD_PRELOAD": LIBRARY, "SLUICE_KILL_AFTER": number, "SLUICE_KILL_MODE": mode,
                                      "SLUICE_KILL_UNDER": leaf})
        try:
            system.attach(leaf, device=device)
            system.stream(device, **base_argument)
        except Exception as why:  # the broker may tell of the closed socket before imaged has wholly ended
            wait_until(lambda: not victim.is_alive(), f"the end of imaged after {why!r}")
        job = wait_until(lambda: not victim.is_alive() or system.terminal_events(device), "the kill or the end", 30.0)
        if not victim.is_alive():
            died += 1
            check_equal(victim.child.returncode, -9, f"how imaged ended at write {number}")
            images.check_no_error(leaf)
            images.compare(leaf, judge.reference)
            system.start_imaged()
        if not system.terminal_events(device) and system.job(device) is None:
            system.attach(leaf, device=device)  # it died before the job was accepted
            system.stream(device, **base_argument)
        event = system.wait_end(device, 30.0)
        check_equal(event["event"], "BLOCK_JOB_COMPLETED", f"end after a kill at write {number}")
        check("error" not in event["data"], f"kill at write {number}: {event['data'].get('error')}")
        check_equal(len(system.terminal_events(device)), 1, f"ends after a kill at write {number}")
        wait_until(lambda: system.try_detach(device), f"detaching {device}", 20.0)
        judge.judge(base_argument.get("base"))
        survived = victim.is_alive()
        if system.imaged.is_alive():
            system.imaged.stop()
        leaf.unlink()
        judge.reference.unlink()
        if survived and job:
            break
    check(died >= 10 // STEP, f"only {died} kills hit imaged")
    print(f"# {died} kills, mode {mode}")
    system.broker.stop()


def imaged_ended_after_any_write_finishes_a_full_stream(place):
    _every_kill(place, {}, "after")


def imaged_ended_before_any_write_finishes_a_partial_stream(place):
    _every_kill(place, {"base": "base.raw"}, "before")


run(globals())
