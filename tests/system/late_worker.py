#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A worker falls asleep (SIGSTOP) right before it writes, loses its leases, and wakes up at the worst moments: whatever it still
writes then must not be seen by anybody.  Until it is gone, QEMU's programs cannot open the leaf for writing.

A preloaded library stops it and tells when the write that it slept before was made; SLUICE_BUILD names the build folder that holds
the library.  That it really wrote late is read from /proc/PID/io; a round where it did not has proved nothing and fails."""

import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

import images
from harness import Skip, check, check_equal, run, wait_until
from images import KIB, MIB
from sluice_wire import Client
from system import System

LIBRARY = os.path.join(os.environ.get("SLUICE_BUILD", ""), "tests/kill_after.so")
SIZE = 64 * MIB
SLOWLY = 4 * MIB  # a second: whatever a busy machine does to the worker's loss and its return, the job outlasts both
OPTIONS = ("--lease", "1", "--peer-timeout", "1")
ROUNDS = int(os.environ.get("SLUICE_TEST_ROUNDS", "3"))  # of each test


def _written(worker):
    """Bytes that the process has handed to write calls so far."""
    with open(f"/proc/{worker.pid}/io", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("wchar:"))


def _states(worker):
    """One letter for each of its threads."""
    letters = []
    for task in os.listdir(f"/proc/{worker.pid}/task"):
        with open(f"/proc/{worker.pid}/task/{task}/stat", encoding="ascii") as file:
            letters.append(file.read().rsplit(")", 1)[1].split()[0])
    return letters


class Sleeper:
    """The system, a leaf over base.raw and mid.qcow2; each round a worker that falls asleep, and one that comes to help then."""

    def __init__(self, place):
        if not os.path.exists(LIBRARY):
            raise Skip("SLUICE_BUILD does not name a build folder")
        self.place = place
        self.number = 0
        self.late = 0
        images.create_raw(place.path / "base.raw", SIZE, [(0, images.pattern(SIZE, 3))])
        images.create(place.path / "mid.qcow2", SIZE, "base.raw")
        images.io(place.path / "mid.qcow2", "write -P 77 0 4M", "write -P 78 24M 20M")
        images.flatten(place.path / "mid.qcow2", place.path / "reference.raw")
        self.system = System(place, workers=0, broker_options=OPTIONS)

    def begin(self, **arguments):
        """A fresh leaf, a job on it, and a worker that falls asleep right before one of its writes to it."""
        self.number += 1
        self.must_leave = False
        self.device = f"d{self.number}"
        self.leaf = images.create(self.place.path / f"{self.device}.qcow2", SIZE, "mid.qcow2")
        self.system.attach(self.leaf, device=self.device)
        self.worker = self.system.start_worker(environment={
            "LD_PRELOAD": LIBRARY, "SLUICE_KILL_UNDER": self.leaf,
            "SLUICE_STOP_BEFORE": self.number, "SLUICE_STOP_SIGN": self.sign()})
        self.system.workers.remove(self.worker)
        self.name = f"worker-{self.system.worker_count}"
        wait_until(self.is_known, "the worker's welcome")
        self.system.stream_once_online(self.device, **arguments)
        wait_until(self.is_asleep, "the worker to fall asleep", 20)
        self.asleep_at = _written(self.worker)
        check(not self.sign().exists(), "it did not fall asleep before its write, but after it")

    def get_help(self):
        self.system.start_worker()

    def is_known(self):
        return self.name in [one["name"] for one in self.system.client.call("query-workers")]

    def sign(self):
        """The file that appears once the write that it slept before was made."""
        return self.place.path / f"woken-{self.device}"

    def is_asleep(self):
        """All its threads, so that none is still in the middle of a write."""
        return all(state == "T" for state in _states(self.worker))

    def wait_lost(self):
        wait_until(lambda: not self.is_known(), "the worker's loss", 20)

    def wake(self):
        """Until the broker has it, and it has told that it writes under none of its orders any more."""
        check(self.is_asleep(), "it was awake already")
        self.worker.signal(signal.SIGCONT)
        # a broker that no longer knows its orders counts none, before the write that it slept in has ended
        wait_until(lambda: self.sign().exists(), "the late write", 20)
        wait_until(lambda: (self.name, 0) in [(one["name"], one["busy"]) for one in self.system.client.call("query-workers")],
                   "the worker's return and the end of its orders", 20)
        # a broker that has let the device go has no orders to count there; then the worker lets the leaf go
        wait_until(lambda: not self.must_leave or "left the leaf" in self.worker.err_text(), "the worker to leave", 20)
        late = _written(self.worker) - self.asleep_at
        check(late >= 64 * KIB, f"it did not write late ({late} bytes)")  # a cluster at least
        self.late += late

    def check_end(self, job=None):
        event = self.system.wait_end(job or self.device, 60.0)
        check_equal(event["event"], "BLOCK_JOB_COMPLETED", "end")
        check("error" not in event["data"], f"the job failed: {event['data'].get('error')}")

    def check_leaf(self):
        images.check_no_error(self.leaf, shared=True)
        images.compare(self.leaf, self.place.path / "reference.raw", shared=True)

    def detach(self):
        wait_until(lambda: self.system.try_detach(self.device), "detaching", 30.0)
        self.must_leave = True

    def end(self):
        """Detached and attached again, so that all that leaked is given back; nothing may be wrong or lost then."""
        self.check_leaf()
        self.detach()
        self.check_leaf()
        self.system.attach(self.leaf, device=self.device)
        self.detach()
        images.check_clean(self.leaf)
        images.compare(self.leaf, self.place.path / "reference.raw")
        check_equal(images.info(self.leaf).get("backing-filename"), None, "backing file")
        self.leaf.unlink()
        for worker in [self.worker, *self.system.workers]:
            if worker.is_alive():
                worker.stop()
        self.system.workers.clear()

    def report(self):
        print(f"# {self.late // KIB} KiB were written late")
        self.system.stop_all()


def _rounds(place, one_round):
    sleeper = Sleeper(place)
    for _ in range(ROUNDS):
        one_round(sleeper)
    sleeper.report()


def it_wakes_after_the_job_has_ended(place):
    def one_round(sleeper):
        sleeper.begin()
        sleeper.get_help()
        sleeper.check_end()
        sleeper.check_leaf()
        sleeper.wake()
        sleeper.end()
    _rounds(place, one_round)


def it_wakes_while_others_go_on_with_the_job(place):
    def one_round(sleeper):
        sleeper.begin(speed=SLOWLY)
        sleeper.get_help()
        sleeper.wait_lost()
        check(not sleeper.system.terminal_events(sleeper.device), "the job ended too early")
        sleeper.wake()
        sleeper.system.client.call("block_job_set_speed", device=sleeper.device, speed=0)
        sleeper.check_end()
        sleeper.end()
    _rounds(place, one_round)


def it_wakes_after_imaged_was_killed_and_started_again(place):
    def one_round(sleeper):
        sleeper.begin()
        sleeper.get_help()
        sleeper.system.imaged.kill()
        sleeper.system.start_imaged()
        sleeper.check_end()
        sleeper.check_leaf()
        sleeper.wake()
        sleeper.end()
    _rounds(place, one_round)


def it_wakes_while_the_next_imaged_works(place):
    def one_round(sleeper):
        sleeper.begin(speed=SLOWLY)
        sleeper.get_help()
        sleeper.system.imaged.kill()
        sleeper.system.start_imaged()
        wait_until(lambda: sleeper.system.client.call("query-devices", device=sleeper.device)[0]["online"], "the device", 20)
        sleeper.wait_lost()
        sleeper.wake()
        sleeper.system.client.call("block_job_set_speed", device=sleeper.device, speed=0)
        sleeper.check_end()
        sleeper.end()
    _rounds(place, one_round)


def it_wakes_after_everybody_else_was_killed(place):
    def one_round(sleeper):
        system = sleeper.system
        sleeper.begin()
        sleeper.get_help()
        for process in (system.broker, system.imaged, *system.workers):
            process.kill()
        system.workers.clear()
        system.start_broker()
        system.client.close()
        system.client = Client(place)
        system.start_imaged()
        system.start_worker()
        sleeper.check_end()
        sleeper.check_leaf()
        sleeper.wake()
        sleeper.end()
    _rounds(place, one_round)


def it_wakes_while_another_job_runs_on_the_leaf(place):
    def one_round(sleeper):
        system = sleeper.system
        sleeper.begin(base="base.raw")
        sleeper.get_help()
        sleeper.check_end()
        system.stream_once_online(sleeper.device, job_id=f"next-{sleeper.device}", speed=SLOWLY)
        # not its position, which counts at once what the first job has left in the leaf
        wait_until(lambda: system.job(f"next-{sleeper.device}")["copied"] > 2 * MIB, "some progress", 20)
        sleeper.wake()
        check(not system.terminal_events(f"next-{sleeper.device}"), "the second job ended too early")
        system.client.call("block_job_set_speed", device=f"next-{sleeper.device}", speed=0)
        sleeper.check_end(f"next-{sleeper.device}")
        sleeper.end()
    _rounds(place, one_round)


def it_wakes_after_the_leaf_was_closed_and_opened_again(place):
    def one_round(sleeper):
        system = sleeper.system
        sleeper.begin(base="base.raw")
        sleeper.get_help()
        sleeper.check_end()
        sleeper.detach()
        sleeper.check_leaf()
        system.attach(sleeper.leaf, device=sleeper.device)
        system.stream_once_online(sleeper.device, job_id=f"next-{sleeper.device}")
        sleeper.check_end(f"next-{sleeper.device}")
        sleeper.wake()
        sleeper.end()
    _rounds(place, one_round)


def _next_job_in_its_place(place, meanwhile):
    """Its job is cancelled, so that what it was given lies at the end of the file, where a next job would get its space; that one
    copies more, so that its bytes lie elsewhere: whatever of them is overwritten late is seen."""
    def one_round(sleeper):
        system = sleeper.system
        sleeper.begin(base="base.raw")
        meanwhile(sleeper)
        system.client.call("block_job_cancel", device=sleeper.device)
        check_equal(system.wait_end(sleeper.device)["event"], "BLOCK_JOB_CANCELLED", "end")
        sleeper.get_help()
        system.stream_once_online(sleeper.device, job_id=f"next-{sleeper.device}")
        sleeper.check_end(f"next-{sleeper.device}")
        sleeper.check_leaf()
        sleeper.wake()
        sleeper.end()
    _rounds(place, one_round)


def it_wakes_after_its_job_was_cancelled_and_the_next_has_ended(place):
    _next_job_in_its_place(place, lambda sleeper: None)


def it_wakes_after_a_cancel_and_the_next_job_of_another_imaged(place):
    def meanwhile(sleeper):
        sleeper.system.imaged.kill()
        sleeper.system.start_imaged()
        # the cancel shall find the job open there, so that it is that imaged that gives back what it can
        wait_until(lambda: f"job={sleeper.device} opened" in sleeper.system.imaged.err_text(), "the job at the next imaged", 20)
    _next_job_in_its_place(place, meanwhile)


def it_wakes_after_a_cancel_a_detach_and_the_next_job(place):
    def one_round(sleeper):
        system = sleeper.system
        sleeper.begin(base="base.raw")
        system.client.call("block_job_cancel", device=sleeper.device)
        check_equal(system.wait_end(sleeper.device)["event"], "BLOCK_JOB_CANCELLED", "end")
        sleeper.detach()
        system.attach(sleeper.leaf, device=sleeper.device)
        sleeper.get_help()
        system.stream_once_online(sleeper.device, job_id=f"next-{sleeper.device}")
        sleeper.check_end(f"next-{sleeper.device}")
        sleeper.wake()
        sleeper.end()
    _rounds(place, one_round)


def _qemu_io(leaf):
    """Whether QEMU could open it for writing."""
    done = subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 77 0 64k", str(leaf)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    check(done.returncode == 0 or "lock" in done.stdout, f"qemu-io failed for another reason: {done.stdout}")
    return done.returncode == 0


def _until_gone(place, go):
    sleeper = Sleeper(place)
    sleeper.begin()
    sleeper.get_help()
    sleeper.check_end()
    sleeper.detach()
    check(not _qemu_io(sleeper.leaf), "QEMU wrote to a leaf that a worker may still write to")
    sleeper.check_leaf()  # others may read
    go(sleeper)
    wait_until(lambda: _qemu_io(sleeper.leaf), "QEMU's turn", 20)
    images.check_no_error(sleeper.leaf)
    images.compare(sleeper.leaf, place.path / "reference.raw")
    sleeper.system.attach(sleeper.leaf, device=sleeper.device)
    sleeper.end()
    sleeper.system.stop_all()


def until_it_wakes_and_leaves_nobody_else_can_write(place):
    _until_gone(place, lambda sleeper: sleeper.wake())


def until_it_dies_nobody_else_can_write(place):
    _until_gone(place, lambda sleeper: sleeper.worker.kill())


run(globals())
