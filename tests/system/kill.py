#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""kill -9 of each part, at random moments of a job and around its end; what was killed is started again, and the job must end by itself
with one event in the log and the right leaf.

A kill counts only if it hit a living process in its window: the job had begun and had not ended.  SLUICE_TEST_KILLS (default 10) is how many
of each kind; soak runs 100."""

import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

import images
from harness import Failed, check, check_equal, run, wait_until
from images import MIB
from sluice_wire import Client
from system import Judge, System

KILLS = int(os.environ.get("SLUICE_TEST_KILLS", "10"))
SIZE = 96 * MIB


class Victim:
    """What is killed, and started again."""

    def __init__(self, system, kind):
        self.system = system
        self.kind = kind

    def kill(self):
        """Whether all that should die lived."""
        system = self.system
        if self.kind == "broker":
            return system.broker.kill()
        if self.kind == "imaged":
            return system.imaged.kill()
        if self.kind == "one worker":
            return system.workers[0].kill()
        if self.kind == "all workers":
            return all([worker.kill() for worker in system.workers])
        alive = [process.kill() for process in (system.broker, system.imaged, *system.workers)]
        return all(alive)

    def restart(self):
        system = self.system
        if self.kind in ("broker", "everything"):
            system.start_broker()
            system.client.close()
            system.client = Client(system.place)
        if self.kind in ("imaged", "everything"):
            system.start_imaged()
        if self.kind in ("one worker", "all workers", "everything"):
            count = len([worker for worker in system.workers if not worker.is_alive()])
            system.workers = [worker for worker in system.workers if worker.is_alive()]
            for _ in range(count):
                system.start_worker()


def _streamed(place, system, base, number, kill):
    """One job on a fresh leaf; `kill(leaf)` kills and restarts meanwhile and says whether the kill counted."""
    name = f"d{number}"
    leaf = images.create(place.path / f"{name}.qcow2", SIZE, base.name)
    reference = place.path / "base.raw"
    system.attach(leaf, device=name)
    begun = time.monotonic()
    system.stream(name)
    counted = kill(name)
    event = system.wait_end(name, 90.0)
    took = time.monotonic() - begun
    check_equal(event["event"], "BLOCK_JOB_COMPLETED", f"end of {name}")
    check("error" not in event["data"], f"{name} failed: {event['data'].get('error')}")
    check_equal(event["data"]["position"], SIZE, "position")
    images.check_no_error(leaf)
    images.compare(leaf, reference)
    check_equal(images.info(leaf).get("backing-filename"), None, "backing file")
    check_equal(len(system.terminal_events(name)), 1, f"ends of {name} in the log")
    wait_until(lambda: system.try_detach(name), f"detaching {name}", 30.0)
    images.check_clean(leaf)
    leaf.unlink()
    return counted, took


def _kills(place, kind, around_the_end):
    base = images.create_raw(place.path / "base.raw", SIZE, [(0, images.pattern(SIZE - 8 * MIB, 5))])
    system = System(place, workers=2)
    victim = Victim(system, kind)
    _, usual = _streamed(place, system, base, 0, lambda _: False)
    counted = tries = 0
    while counted < KILLS:
        tries += 1
        if tries > KILLS * 6:
            raise Failed(f"only {counted} of {tries} kills hit their window (a job takes {usual:.3f} s)")

        def at_a_random_moment(_name):
            time.sleep(place.random.uniform(0, usual))
            ended = bool(system.terminal_events(_name))
            alive = victim.kill()
            victim.restart()
            return alive and not ended

        def near_the_end(name):
            # the job's position tells when the end is near; the moment itself is random within 50 ms
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                job = system.job(name)
                if job is None or job["position"] >= job["end"] * 9 // 10:
                    break
            time.sleep(place.random.uniform(0, 0.05))
            alive = victim.kill()
            victim.restart()
            return alive

        hit, took = _streamed(place, system, base, tries, near_the_end if around_the_end else at_a_random_moment)
        counted += hit
    print(f"# {kind}: {counted} kills counted of {tries}, a job takes {usual:.2f} s undisturbed")
    system.stop_all()


def a_killed_broker_goes_on_with_its_jobs(place):
    _kills(place, "broker", False)


def a_killed_worker_costs_only_its_leases(place):
    _kills(place, "one worker", False)


def all_workers_killed_and_replaced_finish_the_job(place):
    _kills(place, "all workers", False)


def a_killed_imaged_has_its_devices_and_jobs_again(place):
    _kills(place, "imaged", False)


def everything_killed_and_started_again_finishes_the_job(place):
    _kills(place, "everything", False)


def a_broker_killed_around_the_end_tells_the_end_once(place):
    _kills(place, "broker", True)


def an_imaged_killed_around_the_end_has_the_old_chain_or_the_new(place):
    _kills(place, "imaged", True)


def everything_killed_around_the_end_is_durable(place):
    _kills(place, "everything", True)


run(globals())
