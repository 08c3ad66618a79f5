#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""imaged by itself: the test plays the broker and the workers, QEMU's tools judge the images."""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "support"))

import images
from harness import check, check_equal, run
from images import KIB, MIB
from images_broker import HandWorker, ImagesBroker
from random_chain import RandomChain


def _start(place, *options):
    broker = ImagesBroker(place)
    imaged = place.start("sluice-imaged", "--root", place.path, *options)
    broker.wait_hello()
    return broker, imaged


def _simple_chain(place, **options):
    """A raw base of 4 MiB with holes, an empty leaf on it; (leaf, what it must read as)."""
    images.create_raw(place.path / "base.raw", 4 * MIB,
                      [(0, images.pattern(300 * KIB, 1)), (2 * MIB + 512, images.pattern(MIB, 2))])
    leaf = images.create(place.path / "leaf.qcow2", None, "base.raw", **options)
    return leaf, images.flatten(leaf, place.path / "reference.raw")


def check_done(leaf, reference, backing=None):
    images.check_clean(leaf)
    images.compare(leaf, reference)
    check_equal(images.info(leaf).get("backing-filename"), backing, "backing file")


def a_whole_stream_leaves_an_image_of_its_own(place):
    leaf, reference = _simple_chain(place)
    broker, imaged = _start(place)
    state = broker.attach("d", leaf)
    check_equal([layer["node-name"] for layer in state["chain"]], ["d", "d#1"], "node names")
    opened, finished = broker.stream("d")
    check_equal((opened["size"], opened["cluster-size"], opened["backing-name"]), (4 * MIB, 64 * KIB, ""), "job")
    check_equal(len(finished["state"]["chain"]), 1, "files left")
    os.unlink(place.path / "base.raw")
    broker.ask("detach", device="d")
    check_done(leaf, reference)
    imaged.stop()
    check(broker.goodbye or broker.turn(1) or broker.goodbye, "goodbye was said")


run(globals())
