#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""kill -9 of each part, at random moments of a job and around its end; what was killed is started again, and the job must
end by itself with one event in the log and the right leaf.

A kill counts only if it hit living processes in its window: after the job was accepted and before its end was told, or within
50 ms of BLOCK_JOB_COMPLETED.  Every other job is held to a speed, so that it is hit between its messages as well as amid the
copying.  SLUICE_TEST_KILLS (default 10) is how many of each kind; soak runs 100."""

import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

import images
from harness import Failed, check, check_equal, run, wait_until
from images import MIB
from sluice_wire import Client
from system import System

KILLS = int(os.environ.get("SLUICE_TEST_KILLS", "10"))
SIZE = 48 * MIB
DATA = 32 * MIB
SPEED = 64 * MIB  # of the jobs that are held back: half a second
AROUND = 0.05
OPTIONS = ("--peer-timeout", "1", "--lease", "2")


class Victim:
    """What is killed, and started again."""

    def __init__(self, system, kind):
        self.system = system
        self.kind = kind
        self.random = system.place.random

    def kill(self):
        """Whether all that should die lived."""
        system = self.system
        dying = {"broker": [system.broker], "imaged": [system.imaged], "one worker": [self.random.choice(system.workers)],
                 "all workers": list(system.workers),
                 "everything": [system.broker, system.imaged, *system.workers]}[self.kind]
        self.random.shuffle(dying)
        lived = all([process.is_alive() for process in dying])
        for process in dying:
            process.child.kill()
        for process in dying:
            process.child.wait()
        return lived

    def restart(self):
        system = self.system
        count = len(system.workers)
        system.workers = [worker for worker in system.workers if worker.is_alive()]
        actions = [system.start_worker] * (count - len(system.workers))
        if not system.broker.is_alive():
            actions.append(lambda: _start_broker(system))
        if not system.imaged.is_alive():
            actions.append(system.start_imaged)
        self.random.shuffle(actions)
        for action in actions:
            action()


def _start_broker(system):
    system.start_broker()
    system.client.close()
    system.client = Client(system.place)


class Window:
    """Decides when to kill, and knows afterwards whether the moment was the one that was aimed at."""

    def __init__(self, system, victim):
        self.system = system
        self.victim = victim
        self.random = system.place.random
        self.events = None

    def listen(self):
        """Whoever listens heard what comes from now on, whatever became of the broker before."""
        if self.events:
            self.events.close()
        self.events = self.system.events()

    def at_a_random_moment(self, device, usual):
        begun = time.monotonic()
        moment = begun + self.random.uniform(0, usual)
        while time.monotonic() < moment:
            time.sleep(min(0.001, max(0.0, moment - time.monotonic())))
        ended = bool(self.system.terminal_events(device))
        lived = self.victim.kill()
        self.victim.restart()
        return lived and not ended

    def before_the_end(self, device, usual):
        """Within 50 ms before what would have been the end: where the job stands tells."""
        rate = DATA / usual
        left = self.random.uniform(0, AROUND)
        while True:
            job = self.system.job(device)
            if job is None:
                lived = self.victim.kill()
                self.victim.restart()
                return lived and self.age_of_the_end(device) <= AROUND
            if SIZE - job["position"] <= rate * left:
                break
        lived = self.victim.kill()
        self.victim.restart()
        return lived

    def after_the_end(self, device, _usual):
        """Within 50 ms after the event was heard."""
        self.events.until("BLOCK_JOB_COMPLETED", 60.0, device=device)
        moment = time.monotonic() + self.random.uniform(0, AROUND)
        while time.monotonic() < moment:
            pass
        lived = self.victim.kill()
        self.victim.restart()
        return lived

    def age_of_the_end(self, device):
        stamp = self.system.wait_end(device)["timestamp"]
        return time.time() - stamp["seconds"] - stamp["microseconds"] / 1e6


def _streamed(place, system, number, speed, kill):
    """One job on a fresh leaf; `kill(device)` kills and restarts meanwhile and says whether the kill counted.  Also the seconds
    from the request to the end."""
    device = f"d{number}"
    leaf = images.create(place.path / f"{device}.qcow2", SIZE, "base.raw")
    system.attach(leaf, device=device)
    begun = time.monotonic()
    system.stream_once_online(device, speed=speed)
    counted = kill(device)
    event = system.wait_end(device, 60.0)
    took = time.monotonic() - begun
    check_equal(event["event"], "BLOCK_JOB_COMPLETED", f"end of {device}")
    check("error" not in event["data"], f"{device} failed: {event['data'].get('error')}")
    check_equal(event["data"]["position"], SIZE, "position")
    images.check_no_error(leaf, shared=True)
    images.compare(leaf, place.path / "base.raw", shared=True)
    wait_until(lambda: system.try_detach(device), f"detaching {device}", 30.0)
    check_equal(len(system.terminal_events(device)), 1, f"ends of {device} in the log")
    check_equal(system.job(device), None, f"{device} in the list")
    images.check_clean(leaf)
    images.compare(leaf, place.path / "base.raw")
    check_equal(images.info(leaf).get("backing-filename"), None, "backing file")
    leaf.unlink()
    return counted, took


def _begin(place, kind):
    images.create_raw(place.path / "base.raw", SIZE, [(0, images.pattern(DATA, 5))])
    system = System(place, workers=2, broker_options=OPTIONS)
    return system, Victim(system, kind)


def _kills(place, kind, around_the_end):
    system, victim = _begin(place, kind)
    window = Window(system, victim)
    usual = {}
    for number, speed in enumerate((0, SPEED)):
        _, usual[speed] = _streamed(place, system, f"usual{number}", speed, lambda _: False)
    counted = tries = 0
    while counted < KILLS:
        tries += 1
        if tries > KILLS * 6 + 10:
            raise Failed(f"only {counted} of {tries} kills hit their window (a job takes {usual} s)")
        speed = SPEED if tries % 2 else 0
        if not around_the_end:
            aim = window.at_a_random_moment
        elif tries % 4 < 2:
            aim = window.before_the_end
        else:
            aim = window.after_the_end
            window.listen()
        hit, _ = _streamed(place, system, tries, speed, lambda device: aim(device, usual[speed]))
        counted += hit
    print(f"# {kind}: {counted} kills counted of {tries}, an undisturbed job takes "
          f"{usual[0]:.2f} s, held back {usual[SPEED]:.2f} s")
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


def a_worker_killed_around_the_end_changes_nothing(place):
    _kills(place, "one worker", True)


def all_workers_killed_around_the_end_change_nothing(place):
    _kills(place, "all workers", True)


def an_imaged_killed_around_the_end_has_the_old_chain_or_the_new(place):
    _kills(place, "imaged", True)


def everything_killed_around_the_end_is_durable(place):
    _kills(place, "everything", True)


run(globals())
