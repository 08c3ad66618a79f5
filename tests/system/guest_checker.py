#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The checker of guests' reads (support/nbd_traffic.py) itself, with QEMU's own server: it finds nothing wrong there, also when that
is killed, and it does find what is wrong on purpose.  (Zeroes with and without holes mixed are left out: there QEMU 7.2 itself loses
a write to a neighbour of the zeroed place now and then.)"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

import images
from harness import Failed, check, check_equal, run
from images import MIB
from nbd_server import QemuNbd
from nbd_traffic import Traffic, read_all

SIZE = 6 * MIB + 1536


def _leaf(place, **options):
    images.create_raw(place.path / "base.raw", SIZE, [(0, images.pattern(SIZE // 2, 3))])
    leaf = images.create(place.path / "leaf.qcow2", SIZE, "base.raw", **options)
    return leaf, images.flatten(leaf, place.path / "start.raw").read_bytes()


def _must_fail(action):
    try:
        action()
    except Failed as failure:
        print(f"# found: {failure}")
        return str(failure)
    raise Failed("what was put in on purpose was not found")


def _end(place, server, traffic, leaf, check_leaf=images.check_clean):
    model = traffic.stop()
    read_all(server.uri, model)
    server.stop()
    print(f"# {server.name}: {traffic.story()}")
    check(all(traffic.counts[kind] for kind in ("read", "write", "zero", "trim", "flush")), "some kind of request never came")
    check_leaf(leaf)
    model.check_file(images.flatten(leaf, place.path / "end.raw"))


def a_right_server_passes(place):
    leaf, content = _leaf(place)
    server = QemuNbd(place, leaf)
    traffic = Traffic(server.uri, content, place.seed, no_hole=0).begin()
    traffic.wait_requests(3000)
    _end(place, server, traffic, leaf)


def a_server_that_dies_and_keeps_its_word_passes(place):
    leaf, content = _leaf(place)
    server = QemuNbd(place, leaf)
    traffic = Traffic(server.uri, content, place.seed, no_hole=0).begin()
    for number in range(6):
        traffic.wait_requests(300)

        def again():
            server.kill() if number % 2 else server.stop()
            server.start()
        traffic.interrupted(again)
    check_equal(traffic.generation, 7, "times that the clients connected")
    check(traffic.counts["lost"] > 0, "nothing was in flight when the server died")
    _end(place, server, traffic, leaf, images.check_no_error)


def a_server_that_forgets_answered_writes_when_it_dies_is_found(place):
    leaf, content = _leaf(place)
    server = QemuNbd(place, leaf, durable=False)
    traffic = Traffic(server.uri, content, place.seed, no_hole=0, mix={"write": 10}, fua=0).begin()
    traffic.wait_requests(300)

    def again():
        server.kill()
        server.start()
    traffic.interrupted(again)
    model = traffic.stop()
    _must_fail(lambda: read_all(server.uri, model))


def one_changed_byte_is_found(place):
    images.create_raw(place.path / "disk.raw", SIZE)
    server = QemuNbd(place, place.path / "disk.raw", image_format="raw")
    traffic = Traffic(server.uri, bytes(SIZE), place.seed, no_hole=0).begin()
    traffic.wait_requests(300)
    model = traffic.stop()
    read_all(server.uri, model)  # from here on the model has one answer for each byte, also where a trim left two
    place_of_it = 3 * MIB + 77
    with open(place.path / "disk.raw", "r+b") as file:
        file.seek(place_of_it)
        file.write(bytes([model.content[place_of_it] ^ 1]))
    words = _must_fail(lambda: read_all(server.uri, model))
    check(f"byte {place_of_it} " in words, "it was found elsewhere")


def old_data_under_a_discard_is_found(place):
    """qemu-nbd without a leave to discard: the model wants zeroes."""
    leaf, content = _leaf(place, compat="0.10")
    server = QemuNbd(place, leaf)
    traffic = Traffic(server.uri, content, place.seed, no_hole=0, mix={"trim": 10}).begin()
    traffic.wait_requests(100)
    model = traffic.stop()
    _must_fail(lambda: read_all(server.uri, model))


def a_client_that_loses_its_server_unasked_fails(place):
    leaf, content = _leaf(place)
    server = QemuNbd(place, leaf)
    traffic = Traffic(server.uri, content, place.seed, no_hole=0).begin()
    traffic.wait_requests(50)
    server.kill()
    words = _must_fail(lambda: _until_noticed(traffic))
    check("lost their connection" in words, "it failed for another reason")


def _until_noticed(traffic):
    traffic.join(20)
    traffic.check()


run(globals())
