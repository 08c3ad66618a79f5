#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Guests at work on random chains while jobs start, end and are cancelled, workers die, sleep and wake, and imaged and the broker are
killed or replaced: every answer to a guest is compared with a model, and the file in the end with qemu-img.

SLUICE_TEST_SECONDS (default 75) is for all tests together.  SLUICE_TEST_ROUND=N makes each test play round N only, as named by a
failure (or, with SLUICE_TEST_ROUND=N+, from there on); the order in which processes act is not in the seed."""

import collections
import os
import random
import shutil
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

from guest_chain import GuestChain
from guest_stage import Stage
from harness import Failed, check, run
from images import MIB
from nbd_traffic import USUAL
from sluice_wire import CommandError
from system import System

SECONDS = float(os.environ.get("SLUICE_TEST_SECONDS", "75"))
ROUND = os.environ.get("SLUICE_TEST_ROUND", "")
OPTIONS = ("--lease", "1", "--peer-timeout", "1")
JOBS = {"start_job": 30, "cancel_job": 8, "finish_job": 8, "look": 4}
WORKERS = {"kill_worker": 6, "stop_worker": 4, "late_worker": 6, "wake_workers": 8}
IMAGED = {"kill_imaged": 10, "upgrade_imaged": 5}


def _round(place, system, seed, weights, mix):
    draw = random.Random(seed)
    folder = place.path / f"chain{seed}"
    folder.mkdir()
    chain = GuestChain(draw, folder, most=draw.choice((1, 4, 4, 12)) * MIB)
    stage = None
    try:
        stage = Stage(system, chain, seed, draw, mix)
        for _ in range(draw.randrange(6, 18)):
            stage.act(weights)
            stage.traffic.wait_requests(draw.choice((20, 100, 300)))
        stage.end()
        return stage
    except (Failed, CommandError) as failure:
        if stage:
            stage.traffic.abandon()
        acts = ", ".join(stage.done) if stage else "none"
        story = "\n".join(chain.story)
        keep = os.environ.get("SLUICE_TEST_KEEP") and f"\nfiles in {folder}" or ""
        raise Failed(f"round {seed}: {failure}\nacts: {acts}\n{story}{keep}") from failure
    finally:
        if not os.environ.get("SLUICE_TEST_KEEP"):
            shutil.rmtree(folder, ignore_errors=True)


def _rounds(place, number, weights, mix=None, share=0.25, needs=()):
    """As many rounds as fit into the test's share of the time, and on until all was seen that the test needs, at most SECONDS longer: on a
    slow machine few rounds fit, and what is rare in one may be in none of them."""
    system = System(place, workers=2, broker_options=OPTIONS)
    first = int(ROUND.rstrip("+")) if ROUND else place.seed * 100_000 + number * 10_000
    deadline = time.monotonic() + SECONDS * share
    rounds = 0
    counts = collections.Counter()

    def unseen():
        return [kind for kind in ("job", *(mix or USUAL), *needs) if not counts[kind]]

    def goes_on():
        now = time.monotonic()
        return not ROUND.isdigit() and (now < deadline or unseen() and now < deadline + SECONDS)
    while rounds < 1 or goes_on():
        stage = _round(place, system, first + rounds, weights, mix)
        rounds += 1
        counts.update(stage.traffic.counts, job=len(stage.jobs))
    print(f"# {rounds} rounds from {first} on: {', '.join(f'{counts[kind]} {kind}' for kind in sorted(counts))}")
    check(not unseen() or ROUND.isdigit(), f"never seen: {', '.join(unseen())}")
    system.stop_all()


def guests_that_only_read_see_no_change(place):
    _rounds(place, 0, JOBS, {"read": 80, "status": 15, "cache": 5}, share=0.1)


def guests_read_what_they_wrote_while_jobs_come_and_go(place):
    _rounds(place, 1, JOBS, share=0.25)


def guests_read_what_they_wrote_while_workers_die_and_sleep(place):
    _rounds(place, 2, {**JOBS, **WORKERS}, share=0.25)


def guests_that_connect_again_find_all_they_were_answered_for(place):
    _rounds(place, 3, {**JOBS, **IMAGED}, share=0.2, needs=["lost"])  # a request that was in flight when imaged ended


def nothing_is_lost_whatever_dies(place):
    _rounds(place, 4, {**JOBS, **WORKERS, **IMAGED, "kill_broker": 5}, share=0.2)


run(globals())
