#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Workers are started, told to stop and killed all the time while jobs run; nobody is told of it, and nothing else is needed.

Every coming and going is an event, each once and in its order."""

import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

import images
from harness import check, check_equal, run, wait_until
from images import MIB
from sluice_wire import CommandError
from system import Judge, System

CHANGES = int(os.environ.get("SLUICE_TEST_CHANGES", "24"))
SIZE = max(96, 4 * CHANGES) * MIB
SPEED = 8 * MIB  # a second, while the job is not ahead of its changes
OPTIONS = ("--lease", "2")  # who is killed is missed at the next heartbeat; a short --peer-timeout would lose those that live


def _begin(place, workers, size=SIZE, **arguments):
    base = images.create_raw(place.path / "base.raw", size, [(0, images.pattern(size - MIB, 9))])
    leaf = images.create(place.path / "leaf.qcow2", size, "base.raw")
    judge = Judge(place, leaf, [base])
    system = System(place, workers=workers, broker_options=OPTIONS)
    system.attach(leaf)
    system.stream(**arguments)
    return system, judge


def _known(system):
    return sorted(one["name"] for one in system.client.call("query-workers"))


def _position(system):
    """The end of it all once the job has ended."""
    job = system.job()
    return job["position"] if job else SIZE


def _comings_and_goings(system):
    return [(event["event"], event["data"]["name"]) for event in system.client.all_events()
            if event["event"] in ("WORKER_JOINED", "WORKER_LOST")]


class Crowd:
    """The workers by name, and what the events must say of them."""

    def __init__(self, system):
        self.system = system
        self.random = system.place.random
        self.alive = {f"worker-{number + 1}": worker for number, worker in enumerate(system.workers)}

    def add(self):
        """Until the broker knows it: who goes before that has never come."""
        worker = self.system.start_worker()
        name = f"worker-{self.system.worker_count}"
        self.alive[name] = worker
        wait_until(lambda: name in _known(self.system), f"the welcome of {name}")

    def remove(self, way):
        worker = self.alive.pop(self.random.choice(sorted(self.alive)))
        worker.signal(way)
        if way == signal.SIGTERM:
            check_equal(worker.wait(), 0, f"exit status of {worker.name}")
        else:
            worker.wait()
        self.system.workers.remove(worker)

    def change(self):
        """One comes or goes; now and then all go."""
        kind = self.random.random()
        if not self.alive or (len(self.alive) < 5 and kind < 0.5):
            self.add()
        elif kind < 0.55:
            while self.alive:
                self.remove(self.random.choice((signal.SIGTERM, signal.SIGKILL)))
        else:
            self.remove(signal.SIGTERM if kind < 0.78 else signal.SIGKILL)


def _set_speed(system, speed):
    try:
        system.client.call("block_job_set_speed", device="vda", speed=speed)
    except CommandError as error:  # it may have ended
        check_equal(error.error_class, "DeviceNotActive", "class of the error")


def they_come_and_go_while_a_job_runs(place):
    system, judge = _begin(place, 2, speed=SPEED)
    crowd = Crowd(system)
    is_ahead = False
    for number in range(CHANGES):
        crowd.change()
        # a job that is ahead of its changes, as they took long, waits for them
        if (_position(system) >= SIZE * (number + 1) // CHANGES) != is_ahead:
            is_ahead = not is_ahead
            _set_speed(system, SPEED // 32 if is_ahead else SPEED)
        if crowd.alive and not is_ahead:  # the next change comes after some of the copying; not at the same place each time
            goal = min(SIZE, _position(system) + place.random.randrange(1, 3 * SIZE // (4 * CHANGES)))
            wait_until(lambda: _position(system) >= goal, f"progress after change {number}", 30)
        if system.job() is None:
            break
    if not crowd.alive:
        crowd.add()
    _set_speed(system, 0)
    event = system.wait_end()
    check_equal((event["event"], event["data"].get("error")), ("BLOCK_JOB_COMPLETED", None), "end")
    check(number > CHANGES // 2, f"the job ended after {number} changes")
    print(f"# {number + 1} changes, {system.worker_count} workers")

    wait_until(lambda: _known(system) == sorted(crowd.alive), "the list of those that live", 20)
    expected = {f"worker-{number + 1}" for number in range(system.worker_count)}
    heard = _comings_and_goings(system)
    for name in sorted(expected):
        wanted = ["WORKER_JOINED"] if name in crowd.alive else ["WORKER_JOINED", "WORKER_LOST"]
        check_equal([event for event, who in heard if who == name], wanted, f"events of {name}")
    check_equal({who for _, who in heard}, expected, "those of whom there are events")
    system.stop_all()
    judge.judge()


def a_worker_that_comes_takes_its_part(place):
    system, judge = _begin(place, 1, speed=SPEED)
    feed = system.events("WORKER_JOINED")
    wait_until(lambda: _position(system) >= 4 * MIB, "progress", 20)
    system.start_worker()
    system.workers.pop(0).kill()  # only the new one is left
    goal = _position(system) + 8 * MIB
    check(goal <= SIZE, "too little was left for the new worker")
    wait_until(lambda: _position(system) >= goal, "progress by the new worker", 20)
    event = feed.until("WORKER_JOINED", name="worker-2")
    check_equal(event["data"]["realm"], "here", "realm in the event")
    system.client.call("block_job_set_speed", device="vda", speed=0)
    system.wait_end()
    system.stop_all()
    judge.judge()


def one_of_another_realm_gets_nothing(place):
    system, judge = _begin(place, 0)
    stranger = place.start("sluice-worker", "--root", place.path, "--realm", "elsewhere", "--name", "stranger")
    wait_until(lambda: _known(system) == ["stranger"], "the stranger")
    wait_until(lambda: system.job().get("stalled") == "no-worker", "the job to say that it stalls", 20)
    system.start_worker()
    system.wait_end()
    found = {one["name"]: one["ranges"] for one in system.client.call("query-workers")}
    check_equal(found["stranger"], 0, "ranges of the stranger")
    check(found["worker-1"] > 0, "the worker of the realm did nothing")
    stranger.stop()
    system.stop_all()
    judge.judge()


def a_name_that_comes_again_ends_the_one_before(place):
    system, judge = _begin(place, 1, speed=SPEED)
    wait_until(lambda: _position(system) >= 4 * MIB, "progress", 20)
    system.workers[0].signal(signal.SIGSTOP)  # it hangs; its host starts another one in its place
    system.worker_count = 0
    system.start_worker()
    system.client.call("block_job_set_speed", device="vda", speed=0)
    system.wait_end()
    check_equal(_known(system), ["worker-1"], "workers")
    system.workers[0].kill()
    system.workers.pop(0)
    system.stop_all()
    judge.judge()


run(globals())
