# SPDX-License-Identifier: Apache-2.0
"""The broker's side of the imageds' socket and a worker, both by hand, so that a test decides when what is said and written."""

import ctypes
import fcntl
import os
import struct
import time
import zlib

import zmq

import images
from harness import Failed, check, check_equal
from images import KIB, MIB
from sluice_wire import pack, unpack, wire_names

F_OFD_SETLK = 37
SILENCE = 4.0  # seconds without a beat; after 5 imaged takes the broker for dead


class Refused(Exception):
    """imaged answered with image_error."""

    def __init__(self, message):
        super().__init__(f"{message['class']}: {message['msg']}")
        self.error_class = message["class"]
        self.msg = message["msg"]
        self.message = message


class ImagesBroker:
    """A ROUTER on --images: welcomes, beats, asks."""

    def __init__(self, place):
        self.place = place
        self.peer = None
        self.known = set()
        self.hello = None
        self.welcomes = True
        self.number = 0
        self.failed = []
        self.goodbye = False
        self.answers = {}
        self.context = zmq.Context(io_threads=1)
        os.makedirs(place.run_dir, exist_ok=True)
        self.bind()
        place.finally_do(self.close)

    def bind(self):
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.bind(self.place.endpoint("images"))
        self.beat = time.monotonic()
        self.was_silent = False

    def unbind(self):
        self.socket.close(0)
        self.peer = None
        self.known = set()

    def close(self):
        self.socket.close(0)
        self.context.term()

    def send(self, kind, **fields):
        self.send_to(self.peer, kind, **fields)

    def send_to(self, peer, kind, **fields):
        found = {name: value for name, value in wire_names(fields).items() if value is not None}
        self.socket.send_multipart([peer, pack({"type": kind, **found})])

    def turn(self, seconds):
        """Takes one message, if one comes in time.  Returns nothing, for conditions that are still false end in it."""
        self.take(seconds)

    def take(self, seconds):
        """The same; whose it was, or None.  Only a hello says to whom to talk: words of one that is gone may still lie here."""
        silence = time.monotonic() - self.beat
        if self.peer and silence > 0.5:
            self.was_silent = self.was_silent or silence > SILENCE
            self.beat = time.monotonic()
            self.send("imaged_broker_heartbeat")
        if not self.socket.poll(max(0, int(min(seconds, 0.3) * 1000))):
            return None
        peer, body = self.socket.recv_multipart()
        message = unpack(body)
        if message["type"] == "imaged_hello":
            self.peer = peer
            self.known.add(peer)
            self.hello = message
            if self.welcomes:
                self.send("imaged_welcome", generation=1, epoch=1, heartbeat_ms=1000, timeout_ms=5000)
        elif peer not in self.known:
            self.send_to(peer, "imaged_unknown")
        elif message["type"] == "device_failed":
            self.failed.append(message)
        elif message["type"] == "imaged_goodbye":
            self.goodbye = True
        elif message["type"] != "imaged_heartbeat":
            self.answers[message["request"]] = message
        return peer

    def catch_up(self, seconds=10.0):
        """Takes all that came while the test was busy with other things.  If no beat was sent for so long that imaged may have
        begun anew with another socket, the next message shows which one it has: what is sent to another is lost."""
        while self.take(0):
            pass
        deadline = time.monotonic() + seconds
        while self.was_silent:
            if time.monotonic() > deadline:
                raise Failed("imaged says nothing")
            peer = self.take(deadline - time.monotonic())
            if peer in self.known:
                self.peer, self.was_silent = peer, False

    def wait_hello(self, seconds=10.0):
        self.hello = None
        deadline = time.monotonic() + seconds
        while not self.hello:
            if time.monotonic() > deadline:
                raise Failed("no hello")
            self.turn(deadline - time.monotonic())
        return self.hello

    def post(self, kind, **fields):
        """Asks without waiting; the request's number."""
        self.number += 1
        self.catch_up()
        self.send(kind, request=self.number, **fields)
        return self.number

    def answer(self, number, seconds=20.0):
        deadline = time.monotonic() + seconds
        while number not in self.answers:
            if time.monotonic() > deadline:
                raise Failed(f"no answer to request {number}")
            self.turn(deadline - time.monotonic())
        message = self.answers.pop(number)
        if message["type"] == "image_error":
            raise Refused(message)
        return message

    def ask(self, kind, seconds=20.0, **fields):
        return self.answer(self.post(kind, **fields), seconds)

    def refused(self, kind, error_class, *words, **fields):
        """The request must be answered by an error of that class that has these words."""
        try:
            found = self.ask(kind, **fields)
        except Refused as refusal:
            check_equal(refusal.error_class, error_class, f"class of '{refusal.msg}'")
            for word in words:
                check(word in refusal.msg, f"'{word}' in '{refusal.msg}'")
            return refusal
        raise Failed(f"{kind} {fields} was not refused: {found}")

    # ---- what tests do with it

    def attach(self, device, file, **fields):
        fields = {"copy_on_read": False, "read_only": False, **fields}
        return self.ask("attach", device=device, file=str(file), **fields)["state"]

    def work_map(self, device, job):
        """All runs of the map, and the bytes that the leaf has."""
        runs, present, offset = [], 0, 0
        while True:
            page = self.ask("map", device=device, job=job, offset=offset)
            check_equal(page["offset"], offset, "offset of the page")
            runs += page["runs"]
            present += page["present"]
            if page["end"] == offset:
                return runs, present
            offset = page["end"]

    def copy_range(self, worker, device, job, offset, length):
        """Reserves, copies and commits all of the range; what went where."""
        outcome = {"copied": 0, "zeroes": 0, "superseded": 0, "skipped": 0}
        end = offset + length
        while offset < end:
            order = self.ask("reserve", device=device, job=job, join=worker.join, offset=offset, length=end - offset)
            outcome["skipped"] += order["skipped"]
            if not order["length"]:
                return outcome
            zeroes = worker.copy(order)
            committed = self.ask("commit", lease=order["lease"], zeroes=zeroes)
            for name in ("copied", "zeroes", "superseded"):
                outcome[name] += committed[name]
            offset = order["offset"] + order["length"]
        return outcome

    def fill(self, worker, device, job, slice_bytes=1 << 20, stop=lambda: False):
        """Everything that the map asks for."""
        total = {}
        runs, _ = self.work_map(device, job)
        for run in runs:
            for offset in range(run["offset"], run["offset"] + run["length"], slice_bytes):
                length = min(slice_bytes, run["offset"] + run["length"] - offset)
                if stop():
                    return total
                if run["work"] == "zero":
                    found = self.ask("zero", device=device, job=job, offset=offset, length=length)
                else:
                    found = self.copy_range(worker, device, job, offset, length)
                for name in found:
                    if name not in ("type", "request"):
                        total[name] = total.get(name, 0) + found[name]
        return total

    def stream(self, device, job=None, slice_bytes=1 << 20, **wish):
        """A whole job with a worker of its own; (job_opened, finished)."""
        job = job or device
        opened = self.ask("open_job", device=device, job=job, **wish)
        if not opened["nothing-to-do"]:
            worker = HandWorker(self, device)
            self.fill(worker, device, job, slice_bytes)
            worker.leave()
        finished = self.ask("finish", device=device, job=job, backing_name=opened["backing-name"],
                            backing_format=opened["backing-format"])
        check_equal(finished["type"], "finished", "answer to finish")
        return opened, finished


def boot_id():
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def lock_byte(fd, byte):
    """A shared lock of this open file description."""
    fcntl.fcntl(fd, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0))


def inflate(stored, length):
    return zlib.decompressobj(-12).decompress(stored, length)


def unpack_zstd(stored, length):
    library = ctypes.CDLL("libzstd.so.1")
    library.ZSTD_findFrameCompressedSize.restype = library.ZSTD_decompress.restype = ctypes.c_size_t
    frame = library.ZSTD_findFrameCompressedSize(stored, ctypes.c_size_t(len(stored)))
    target = ctypes.create_string_buffer(length)
    library.ZSTD_decompress(target, ctypes.c_size_t(length), stored, ctypes.c_size_t(frame))
    return target.raw


class HandWorker:
    """Joins a leaf and copies by pread and pwrite, when and as often as a test likes."""

    count = 0

    def __init__(self, broker, device, confirm=True):
        HandWorker.count += 1
        self.broker = broker
        self.device = device
        self.name = f"hand-{HandWorker.count}"
        self.prepared = broker.ask("prepare_join", device=device, worker=self.name, incarnation=HandWorker.count)
        self.join = self.prepared["join"]
        self.cluster_size = self.prepared["cluster-size"]
        self.leaf = os.open(self.prepared["leaf"]["path"], os.O_RDWR)
        self.sources = [os.open(source["path"], os.O_RDONLY) for source in self.prepared["sources"]]
        lock_byte(self.leaf, 201)
        lock_byte(self.leaf, self.prepared["lock-byte"])
        broker.place.finally_do(self.die)
        if confirm:
            self.confirm()

    def confirm(self, **other):
        found = os.fstat(self.leaf)
        fields = {"boot_id": boot_id(), "device_number": found.st_dev, "inode": found.st_ino, **other}
        return self.broker.ask("confirm_join", join=self.join, **fields)

    def read(self, source):
        """The bytes of one source extent."""
        if source["codec"] == "zero":
            return bytes(source["length"])
        file = self.sources[source["file"]]
        if source["codec"] == "plain":
            found = os.pread(file, source["length"], source["offset"])
        else:
            stored = os.pread(file, source["stored"], source["offset"])
            unpack_cluster = {"deflate": inflate, "zstd": unpack_zstd}[source["codec"]]
            whole = unpack_cluster(stored, source["cluster"])
            check_equal(len(whole), source["cluster"], "decompressed bytes")
            found = whole[source["skip"]:source["skip"] + source["length"]]
        check_equal(len(found), source["length"], f"bytes of {source}")
        return found

    def copy(self, order, detect=True):
        """Carries the order out; the zeroes to be reported."""
        content = b"".join(self.read(source) for source in order["sources"])
        check_equal(len(content), sum(piece["length"] for piece in order["destinations"]), "bytes of the order")
        check_equal(len(content) % self.cluster_size, 0, "part of a cluster in the order")
        zeroes, at = [], 0
        for piece in order["destinations"]:
            for offset in range(piece["offset"], piece["offset"] + piece["length"], self.cluster_size):
                cluster = content[at:at + self.cluster_size]
                if detect and order["detect-zeroes"] and not any(cluster):
                    if zeroes and zeroes[-1]["offset"] + zeroes[-1]["length"] == at:
                        zeroes[-1]["length"] += self.cluster_size
                    else:
                        zeroes.append({"offset": at, "length": self.cluster_size})
                else:
                    os.pwrite(self.leaf, cluster, offset)
                at += self.cluster_size
        os.fdatasync(self.leaf)
        return zeroes

    def scribble(self, order, byte=0xee):
        """Writes rubbish to all destinations: what a worker does that woke up too late."""
        for piece in order["destinations"]:
            os.pwrite(self.leaf, bytes([byte]) * piece["length"], piece["offset"])

    def die(self):
        """The process is gone: its descriptors and locks with it."""
        for file in [self.leaf, *self.sources]:
            if file >= 0:
                os.close(file)
        self.leaf, self.sources = -1, []

    def leave(self):
        self.die()
        self.broker.ask("end_join", join=self.join, stopped=True)


def start_imaged(place, *options, environment=None):
    broker = ImagesBroker(place)
    imaged = place.start("sluice-imaged", "--root", place.path, *options, environment=environment)
    broker.wait_hello()
    return broker, imaged


def simple_chain(place, **options):
    """A raw base of 4 MiB with holes, an empty leaf on it; (leaf, what it must read as)."""
    images.create_raw(place.path / "base.raw", 4 * MIB,
                      [(0, images.pattern(300 * KIB, 1)), (2 * MIB + 512, images.pattern(MIB, 2))])
    leaf = images.create(place.path / "leaf.qcow2", None, "base.raw", **options)
    return leaf, images.flatten(leaf, place.path / "reference.raw")


def check_done(leaf, reference, backing=None):
    images.check_clean(leaf)
    images.compare(leaf, reference)
    check_equal(images.info(leaf).get("backing-filename"), backing, "backing file")
