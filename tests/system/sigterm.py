#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""SIGTERM and SIGINT of each program in the middle of a job: everybody ends with 0 and in time, nothing is lost, no event ends
the job, and it goes on by itself."""

import os
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

import images
from harness import Failed, check, check_equal, run, stay_in_memory, wait_until
from images import MIB
from sluice_wire import Client
from system import Judge, System

SIZE = 64 * MIB
SLOWLY = 16 * MIB


def _begin(place, workers=2, speed=SLOWLY, **more):
    """A job in its middle; the system and its judge."""
    base = images.create_raw(place.path / "base.raw", SIZE, [(0, images.pattern(SIZE - MIB, 9))])
    leaf = images.create(place.path / "leaf.qcow2", SIZE, "base.raw")
    judge = Judge(place, leaf, [base])
    system = System(place, workers=workers, **more)
    system.attach(leaf)
    system.stream(speed=speed)
    _some_progress(system)
    return system, judge


def _some_progress(system, more=4 * MIB):
    begun = system.job()["position"]
    wait_until(lambda: system.job()["position"] >= min(SIZE, begun + more), "progress", 20)


def _end(system, process, number, seconds):
    """Ends the process; its seconds."""
    begun = time.monotonic()
    process.signal(number)
    check_equal(process.wait(seconds), 0, f"exit status of {process.name}")
    return time.monotonic() - begun


def _go_on_to_the_end(system, judge):
    system.client.call("block_job_set_speed", device="vda", speed=0)
    event = system.wait_end()
    check_equal(event["event"], "BLOCK_JOB_COMPLETED", "end")
    check("error" not in event["data"], f"the job failed: {event['data'].get('error')}")
    check_equal(len(system.terminal_events()), 1, "ends in the log")
    statuses = [one["data"]["status"] for one in system.client.all_events(event="JOB_STATUS_CHANGE")]
    check_equal(statuses, ["created", "running", "waiting", "pending", "concluded", "null"], "statuses")
    system.stop_all()
    judge.judge()


def _new_client(system):
    system.client.close()
    system.client = Client(system.place)


def _stop_the_broker(place, number):
    system, judge = _begin(place)
    before = system.job()
    took = _end(system, system.broker, number, 5)
    print(f"# the broker ended in {took:.2f} s")
    for process in [system.imaged, *system.workers]:
        process.check_alive()
    system.start_broker()
    _new_client(system)
    check_equal(system.terminal_events(), [], "events that end the job")
    job = system.job()
    check_equal((job["job-id"], job["speed"], job["end"]), ("vda", SLOWLY, SIZE), "the job after the restart")
    wait_until(lambda: system.job()["copied"] >= before["copied"] and system.job()["position"] >= before["position"],
               "the place where it was", 20)
    _some_progress(system)
    _go_on_to_the_end(system, judge)


def a_broker_that_is_told_to_stop_goes_on_with_its_jobs_at_its_next_start(place):
    _stop_the_broker(place, signal.SIGTERM)


def a_broker_that_is_interrupted_goes_on_with_its_jobs_at_its_next_start(place):
    _stop_the_broker(place, signal.SIGINT)


def _written(pid):
    with open(f"/proc/{pid}/io", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("wchar:"))


def _stop_and_count(worker, number):
    """Ends it; its seconds, and the bytes it wrote in its life (read before it is reaped)."""
    begun = time.monotonic()
    worker.signal(number)
    while os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() > begun + 10:
            raise Failed(f"{worker.name} still runs after 10 s")
        time.sleep(0.005)
    took = time.monotonic() - begun
    written = _written(worker.pid)
    check_equal(worker.wait(), 0, f"exit status of {worker.name}")
    check(took < 5, f"{worker.name} took {took:.2f} s to end")
    return took, written


def _stop_a_worker(place, number, speed):
    system, judge = _begin(place, workers=3, speed=speed)
    stopped, took = 0, []
    for worker in system.workers[:2]:
        seconds, written = _stop_and_count(worker, number)
        took.append(seconds)
        stopped += written
    del system.workers[:2]
    check(not system.terminal_events(), "the job had ended before")
    wait_until(lambda: len(system.client.all_events(event="WORKER_LOST")) == 2, "the loss of two workers to be told", 10)
    survivor = system.workers[0]
    system.client.call("block_job_set_speed", device="vda", speed=0)
    event = system.wait_end()
    check_equal(event["event"], "BLOCK_JOB_COMPLETED", "end")
    written = stopped + _written(survivor.pid)
    print(f"# the workers ended in {took[0]:.2f} and {took[1]:.2f} s; {written / MIB:.1f} MiB written for {SIZE / MIB - 1:.0f} MiB")
    # a range that was not begun is given back, one in the works is finished: nothing is copied twice
    check(written < SIZE + MIB, f"{written} bytes were written to copy {SIZE - MIB}")
    check_equal(len(system.terminal_events()), 1, "ends in the log")
    system.stop_all()
    judge.judge()


def workers_that_are_told_to_stop_finish_what_they_copy(place):
    _stop_a_worker(place, signal.SIGTERM, SLOWLY)


def workers_that_are_interrupted_finish_what_they_copy(place):
    _stop_a_worker(place, signal.SIGINT, SLOWLY)


def when_all_workers_stop_the_job_waits_for_the_next(place):
    system, judge = _begin(place)
    for worker in system.workers:
        worker.signal(signal.SIGTERM)
    for worker in system.workers:
        check_equal(worker.wait(5), 0, f"exit status of {worker.name}")
    system.workers.clear()
    wait_until(lambda: system.job().get("stalled") == "no-worker", "the job to say that it stalls", 20)
    system.start_worker()
    wait_until(lambda: system.job().get("stalled") is None, "the job to go on", 20)
    stalls = [event["data"]["reason"] for event in system.client.all_events(event="BLOCK_JOB_STALLED")]
    check_equal(stalls, ["no-worker", ""], "reasons for which it stalled")
    _go_on_to_the_end(system, judge)


def _stop_imaged(place, number):
    system, judge = _begin(place)
    before = system.job()
    took = _end(system, system.imaged, number, 10)
    print(f"# imaged ended in {took:.2f} s")
    wait_until(lambda: not system.client.call("query-devices")[0]["online"], "the device to be offline", 10)
    images.check_clean(judge.leaf)
    images.compare(judge.leaf, judge.reference)
    check_equal(images.info(judge.leaf)["backing-filename"], "base.raw", "backing file")
    job = system.job()
    check_equal(job["status"], "running", "status while imaged is away")
    wait_until(lambda: system.job().get("stalled") == "device-offline", "the job to say why it stalls", 10)
    for process in [system.broker, *system.workers]:
        process.check_alive()
    system.start_imaged()
    wait_until(lambda: system.job().get("stalled") is None, "the job to go on", 20)
    job = system.job()
    check_equal(job["speed"], SLOWLY, "speed")
    check(job["copied"] >= before["copied"], f"{before['copied']} bytes were copied, now it says {job['copied']}")
    _some_progress(system)
    _go_on_to_the_end(system, judge)


def an_imaged_that_is_told_to_stop_leaves_a_clean_leaf_and_goes_on_when_it_is_back(place):
    _stop_imaged(place, signal.SIGTERM)


def an_imaged_that_is_interrupted_leaves_a_clean_leaf_and_goes_on_when_it_is_back(place):
    _stop_imaged(place, signal.SIGINT)


def _stop_all(place, order):
    system, judge = _begin(place)
    processes = {"broker": [system.broker], "imaged": [system.imaged], "workers": system.workers}
    for name in order:
        for process in processes[name]:
            process.signal(signal.SIGTERM)
        for process in processes[name]:
            check_equal(process.wait(10), 0, f"exit status of {process.name}")
    images.check_clean(judge.leaf)
    images.compare(judge.leaf, judge.reference)
    system.workers.clear()
    for name in order:
        {"broker": system.start_broker, "imaged": system.start_imaged, "workers": system.start_worker}[name]()
    _new_client(system)
    wait_until(lambda: system.job() and system.job().get("stalled") is None, "the job to go on", 20)
    _go_on_to_the_end(system, judge)


def all_stop_the_workers_first(place):
    _stop_all(place, ["workers", "imaged", "broker"])


def all_stop_the_broker_first(place):
    _stop_all(place, ["broker", "imaged", "workers"])


def all_stop_imaged_first(place):
    _stop_all(place, ["imaged", "workers", "broker"])


stay_in_memory()
run(globals())
