#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Random chains, streamed with a random base, compared with what qemu-img read from the chain before.

    differential.py [--seed N] [--chains N]      (SLUICE_TEST_CHAINS has the same meaning)"""

import os
import random
import shutil
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

import images
from harness import Failed, run
from random_chain import RandomChain
from sluice_wire import CommandError
from system import Judge, System

CHAINS = int(os.environ.get("SLUICE_TEST_CHAINS", "40"))


def _one(place, system, seed):
    draw = random.Random(seed)
    folder = place.path / f"chain{seed}"
    folder.mkdir()
    chain = RandomChain(draw, folder)
    base = draw.choice(chain.bases())
    story = "\n".join([f"chain seed {seed}, base {base}", *chain.story])
    try:
        judge = Judge(place, chain.leaf, chain.files[:-1])
        system.attach(chain.leaf)
        try:
            system.complete(job_id=f"job-{seed}", **({"base": base} if base else {}))
        except CommandError as error:
            # a header that has no room for the name is refused beforehand, as the contract says
            if "room" not in error.desc and "header" not in error.desc:
                raise
            print(f"# seed {seed}: refused: {error.desc}")
        else:
            system.detach()
            judge.judge(base)
            return True
        system.detach()
        return False
    except (Failed, CommandError) as failure:
        raise Failed(f"{failure}\n{story}") from failure
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        judge.reference.unlink(missing_ok=True)


def random_chains_read_the_same_after_streaming(place):
    system = System(place, workers=2)
    begun = time.monotonic()
    streamed = sum(_one(place, system, place.seed * 100_000 + number) for number in range(CHAINS))
    print(f"# {streamed} of {CHAINS} chains streamed in {time.monotonic() - begun:.1f} s, first seed {place.seed * 100_000}")
    if streamed < CHAINS * 3 // 4:
        raise Failed(f"only {streamed} of {CHAINS} chains were streamed")
    system.stop_all()


run(globals())
