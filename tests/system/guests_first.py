#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Guests first: the whole system with a guest on the device; its job gives way, and copies first what the guest missed."""

import pathlib
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "support"))

import images
from harness import check, run, wait_until
from images import MIB
from nbd_client import Guest, uri
from system import Judge, System


class BusyGuest:
    """Reads all the time, until it is told to stop."""

    def __init__(self, where):
        self.is_stopping = threading.Event()
        self.error = None
        self.reads = 0
        self.thread = threading.Thread(target=self.read, args=(where,), daemon=True)

    def read(self, where):
        try:
            with Guest(where) as guest:
                while not self.is_stopping.is_set():
                    guest.read(65536, self.reads * 65536 % MIB)
                    self.reads += 1
        except Exception as error:
            self.error = error

    def count(self):
        """Of its reads; all must have gone well."""
        check(self.error is None, f"the guest met {self.error!r}")
        return self.reads

    def __enter__(self):
        self.thread.start()
        wait_until(lambda: self.reads > 10 or self.error, "the guest to read")
        return self

    def __exit__(self, *_):
        self.is_stopping.set()
        self.thread.join()
        self.count()


def _attached(place, megabytes):
    base = images.create_raw(place.path / "base.raw", megabytes * MIB,
                             [(i * MIB, images.pattern(MIB, i + 1)) for i in range(megabytes)])
    leaf = images.create(place.path / "leaf.qcow2", backing="base.raw", backing_format="raw")
    judge = Judge(place, leaf, [base])
    system = System(place)
    system.attach(leaf)
    return system, judge


def _detach(system):
    """Its guest has left, but the device may not have heard of it yet."""
    wait_until(lambda: system.try_detach("vda"), "detaching", 20.0)


def _is_in_leaf(system, offset):
    return system.client.call("query-allocation", device="vda", offset=offset, length=65536)[0]["state"] == "leaf"


def what_a_guest_reads_is_copied_first_and_what_lies_behind_it_next(place):
    system, judge = _attached(place, 64)
    system.stream(speed=MIB)  # a minute, if it is let
    with Guest(uri(place, "vda")) as guest:
        guest.read(4096, 40 * MIB + 5 * 65536)
    wait_until(lambda: _is_in_leaf(system, 40 * MIB + 5 * 65536), "what was read to be copied", 20.0)
    wait_until(lambda: _is_in_leaf(system, 41 * MIB), "what lies behind it to be copied", 20.0)
    check(not _is_in_leaf(system, 30 * MIB), "all that comes before was copied before")
    system.client.call("block_job_set_speed", device="vda", speed=0)
    check("error" not in system.wait_end()["data"], "the job ended badly")
    _detach(system)
    judge.judge()


def _copied(system):
    job = system.job()
    check(job, "the job ended although its guest was busy")
    return job["copied"]


def _watched(sample, more, what):
    """What `sample` gives again and again, until its first value has grown by `more`."""
    samples = []

    def is_enough():
        samples.append(sample())
        return samples[-1][0] - samples[0][0] >= more
    wait_until(is_enough, what, 60.0)
    return samples


def _windows(samples, length):
    """All pairs of samples whose first values lie so far apart.  Tests judge the best of them: where the guest's thread or
    imaged's report was not scheduled for half a second the broker took the guest for idle, and its job had the disk."""
    for index, first in enumerate(samples):
        last = next((one for one in samples[index:] if one[0] - first[0] >= length), None)
        if last:
            yield first, last


def a_busy_guest_holds_its_job_at_the_floor_and_an_idle_one_lets_it_go(place):
    floor = 2 * MIB
    system, judge = _attached(place, 256)
    with BusyGuest(uri(place, "vda")):
        system.stream(floor=floor)
        wait_until(lambda: _copied(system) >= 4 * MIB, "the job to have begun", 30.0)
        samples = _watched(lambda: (_copied(system), time.monotonic()), 12 * MIB, "the job to move for all that")
        rate = min((last[0] - first[0]) / (last[1] - first[1]) for first, last in _windows(samples, 4 * MIB))
        check(rate < 1.5 * floor, f"with a busy guest it copies {rate / MIB:.1f} MiB a second")
    event = system.wait_end("vda", 60.0)
    check("error" not in event["data"], f"the job ended badly: {event}")
    _detach(system)
    judge.judge()


def with_a_floor_of_0_a_job_stands_still_while_its_guest_is_busy(place):
    system, judge = _attached(place, 64)
    with BusyGuest(uri(place, "vda")) as guest:
        system.stream(floor=0)
        wait_until(lambda: system.job()["status"] == "running", "the job to run")
        target = guest.reads + 200
        wait_until(lambda: guest.reads > target or guest.error, "the guest to be known as busy")
        samples = _watched(lambda: (guest.count(), _copied(system)), 1500, "the guest to read on")
        copied = min(last[1] - first[1] for first, last in _windows(samples, 300))
        check(copied <= MIB // 2, f"{copied} bytes were copied meanwhile")
    event = system.wait_end("vda", 60.0)
    check("error" not in event["data"], f"the job ended badly: {event}")
    _detach(system)
    judge.judge()


if __name__ == "__main__":
    run(globals())
