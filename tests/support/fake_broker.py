# SPDX-License-Identifier: Apache-2.0
"""The broker's side of the workers' socket, by hand: a ROUTER on which a test hears and says one message at a time."""

import os
import time

import zmq

from harness import Failed, check_equal
from sluice_wire import pack, unpack, wire_names


class FakeBroker:
    """Answers hello by itself (unless welcomes is False) and keeps silent about heartbeats; all else is the test's."""

    def __init__(self, place, generation=4):
        self.place = place
        self.generation = generation
        self.welcomes = True
        self.beats = True
        self.peer = None
        self.hello = None
        self.seen = []
        self.known = set()
        self.socket = None
        self.context = zmq.Context(io_threads=1)
        os.makedirs(place.run_dir, exist_ok=True)
        self.bind()
        place.finally_do(self.close)

    def bind(self):
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.bind(self.place.endpoint("workers"))
        self.beat = time.monotonic()

    def unbind(self):
        """Gone, as after kill -9; what was on its way is lost."""
        self.socket.close(0)
        self.peer = None
        self.known = set()

    def close(self):
        self.socket.close(0)
        self.context.term()

    def send(self, kind, **fields):
        self.socket.send_multipart([self.peer, pack({"type": kind, **wire_names(fields)})])

    def welcome(self):
        self.send("worker_welcome", generation=self.generation, epoch=1, heartbeat_ms=1000, timeout_ms=5000)

    def beat_if_due(self):
        if self.peer and self.beats and time.monotonic() - self.beat > 0.5:
            self.beat = time.monotonic()
            self.send("broker_heartbeat")

    def receive(self, seconds=10.0, heartbeats=False):
        """The next message but heartbeats; None after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            self.beat_if_due()
            if not self.socket.poll(max(0, min(100, int(left * 1000)))):
                if left <= 0:
                    return None
                continue
            peer, body = self.socket.recv_multipart()
            message = unpack(body)
            self.peer = peer
            self.seen.append(message)
            if message["type"] == "worker_hello":
                self.hello = message
                if self.welcomes:
                    self.welcome()
            elif peer not in self.known:
                self.send("worker_unknown")
                continue
            self.known.add(peer)
            if message["type"] != "worker_heartbeat" or heartbeats:
                return message

    def expect(self, kind, seconds=10.0, **fields):
        """The next message of that type with these fields; others on the way are dropped."""
        fields = wire_names(fields)
        deadline = time.monotonic() + seconds
        before = len(self.seen)
        while True:
            message = self.receive(deadline - time.monotonic(), heartbeats=kind == "worker_heartbeat")
            if message is None:
                raise Failed(f"no {kind} {fields} within {seconds} s; seen: {self.seen[before:]}")
            if message["type"] == kind and all(message.get(name) == value for name, value in fields.items()):
                return message

    def expect_one_of(self, *kinds, seconds=10.0):
        """The next message of one of these types."""
        deadline = time.monotonic() + seconds
        while True:
            message = self.receive(deadline - time.monotonic())
            if message is None:
                raise Failed(f"none of {kinds} within {seconds} s")
            if message["type"] in kinds:
                return message

    def expect_silence(self, seconds):
        """Nothing but heartbeats and hellos for that long."""
        deadline = time.monotonic() + seconds
        while True:
            message = self.receive(deadline - time.monotonic())
            if message is None:
                return
            check_equal(message["type"], "worker_hello", "what was to be silence")


def file_reference(path, **other):
    """A file as imaged tells it; `other` fields lie."""
    found = os.stat(path)
    return {"path": os.path.realpath(path), "device-number": found.st_dev, "inode": found.st_ino,
            "size": found.st_size, "mtime-ns": found.st_mtime_ns, **wire_names(other)}
