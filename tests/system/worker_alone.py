#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""One real worker; Python plays the broker and imaged, and judges by the bytes in the files."""

import ctypes
import fcntl
import os
import pathlib
import signal
import resource
import struct
import sys
import time
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

from engine_judge import work_folder
from fake_broker import FakeBroker, file_reference
from harness import check, check_equal, run, wait_until
from held_copying import HeldCopying

CLUSTER = 65536
MIB = 1 << 20
LOWEST_BEST_EFFORT = 2 << 13 | 7
LOCK_BYTE = (1 << 40) + 77
F_OFD_GETLK = 36
AT_ONCE = 4.0  # seconds; one that waits for copies which it does not have takes 4.5


class Stage:
    """A broker, a worker and a leaf with one base of incompressible bytes, joined as join 3."""

    def __init__(self, place, clusters=16, joined=True, slots=2, start=True, folder=None):
        self.place = place
        self.images = (folder or place.path) / "images"
        self.images.mkdir()
        self.base = self.images / "base.raw"
        self.leaf = self.images / "leaf.qcow2"
        self.content = b"".join(place.random.randbytes(CLUSTER) for _ in range(clusters))
        self.base.write_bytes(self.content)
        self.leaf.write_bytes(b"\xee" * CLUSTER)
        os.truncate(self.leaf, (clusters + 1) * CLUSTER)
        self.clusters = clusters
        self.slots = slots
        self.broker = FakeBroker(place)
        self.next_lease = 100
        if start:
            self.worker = self.start()
            self.broker.expect("worker_hello")
        if joined:
            self.join()

    def start(self):
        return self.place.start("sluice-worker", "--root", self.images, "--slots", self.slots, "--name", "worker-1",
                                "--realm", "here")

    def join(self, number=3, leaf=None, sources=None, lock_byte=LOCK_BYTE, cluster=CLUSTER):
        self.broker.send("join", join=number, device="vda", leaf=leaf or file_reference(self.leaf), lock_byte=lock_byte,
                         cluster_size=cluster, sources=[file_reference(self.base)] if sources is None else sources)
        answer = self.broker.expect_one_of("joined", "join_refused")
        return answer

    def order(self, first=0, clusters=1, lease=None, at=None, **other):
        """Copies clusters of the base to the same place behind the leaf's header; returns the lease."""
        if lease is None:
            self.next_lease += 1
            lease = self.next_lease
        length = clusters * CLUSTER
        order = {"lease": lease, "generation": self.broker.generation, "join": 3, "offset": first * CLUSTER,
                 "detect_zeroes": True,
                 "sources": [{"codec": "plain", "length": length, "file": 0, "offset": first * CLUSTER}],
                 "destinations": [{"offset": (first + 1) * CLUSTER if at is None else at, "length": length}]}
        order.update(other)
        self.broker.send("copy_order", **order)
        return lease

    def long_order(self, megabytes=2048, first=1):
        """All of the base again and again: two gigabytes take a second or more."""
        repeats = megabytes * MIB // len(self.content)
        source = {"codec": "plain", "length": len(self.content), "file": 0, "offset": 0}
        return self.order(sources=[source] * repeats,
                          destinations=[{"offset": first * CLUSTER, "length": repeats * len(self.content)}])

    def held_long_orders(self, count=1, megabytes=2048):
        """Long orders: as many as there are slots are begun and held there, others wait.  Returns who holds, and the leases."""
        held = HeldCopying(self.place, self.worker)
        leases = [self.long_order(megabytes, first=1 + 40000 * number) for number in range(count)]
        held.let_begin(self.broker)
        return held, leases

    def acknowledge(self, lease):
        self.broker.send("report_acknowledged", lease=lease)

    def copied(self, lease, seconds=20.0):
        answer = self.broker.expect("copied", seconds, lease=lease)
        self.acknowledge(lease)
        return answer

    def wait_until_read(self):
        """Until the worker has read all that was sent to it before: it answers in the order of the questions."""
        self.broker.send("copy_stop", lease=7)
        self.broker.expect("copy_stopped", lease=7)

    def leaf_bytes(self, first, clusters=1):
        with open(self.leaf, "rb") as file:
            file.seek((first + 1) * CLUSTER)
            return file.read(clusters * CLUSTER)

    def check_copied(self, first, clusters=1):
        check(self.leaf_bytes(first, clusters) == self.content[first * CLUSTER:(first + clusters) * CLUSTER],
              f"clusters from {first} on are not in the leaf")


def is_locked(path, byte):
    """Whether somebody holds a lock on that byte."""
    with open(path, "rb+") as file:
        found = fcntl.fcntl(file, F_OFD_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, byte, 1, 0))
        return struct.unpack("hhqqi4x", found)[0] != fcntl.F_UNLCK


def io_priority(thread):
    """As ioprio_get(2) tells it, which Python does not have."""
    number = {"x86_64": 252, "aarch64": 31}[os.uname().machine]
    return ctypes.CDLL(None).syscall(number, 1, thread)


def hello_says_who_it_is(place):
    stage = Stage(place, joined=False)
    hello = stage.broker.hello
    check_equal((hello["protocol"], hello["name"], hello["realm"], hello["slots"]), (1, "worker-1", "here", 2))
    check_equal((hello["joins"], hello["leases"], hello["pid"]), ([], [], stage.worker.pid))
    check_equal(hello["boot-id"], open("/proc/sys/kernel/random/boot_id").read().strip())
    for thread in os.listdir(f"/proc/{stage.worker.pid}/task"):
        check_equal((os.getpriority(os.PRIO_PROCESS, int(thread)), io_priority(int(thread))), (10, LOWEST_BEST_EFFORT), thread)
    stage.broker.expect("worker_heartbeat")


def a_join_locks_the_leaf_and_says_what_it_found(place):
    stage = Stage(place, joined=False)
    check(not is_locked(stage.leaf, 201), "locked before the join")
    answer = stage.join()
    found = os.stat(stage.leaf)
    check_equal((answer["type"], answer["join"], answer["device-number"], answer["inode"]),
                ("joined", 3, found.st_dev, found.st_ino))
    check(is_locked(stage.leaf, 201) and is_locked(stage.leaf, LOCK_BYTE), "not locked")
    check(not is_locked(stage.leaf, 200) and not is_locked(stage.leaf, LOCK_BYTE + 1), "locked too much")
    check_equal(stage.join()["type"], "joined", "a repeat")
    stage.broker.send("leave", join=3)
    stage.broker.expect("left", join=3)
    check(not is_locked(stage.leaf, 201) and not is_locked(stage.leaf, LOCK_BYTE), "locked after it left")
    stage.broker.send("leave", join=3)
    stage.broker.expect("left", join=3)


def joins_of_wrong_files_are_refused(place):
    stage = Stage(place, joined=False)
    outside = place.path / "outside.raw"
    outside.write_bytes(b"x" * CLUSTER)
    link_out = stage.images / "out.raw"
    link_out.symlink_to(outside)
    link_in = stage.images / "in.raw"
    link_in.symlink_to("base.raw")
    fifo = stage.images / "fifo"
    os.mkfifo(fifo)
    leaf, base = file_reference(stage.leaf), file_reference(stage.base)
    unlinked = {**file_reference(outside), "path": str(link_out)}

    def refused(words, errno=None, **what):
        answer = stage.join(number=stage.next_lease, **what)
        stage.next_lease += 1
        check_equal(answer["type"], "join_refused", words)
        check(words in answer["msg"], f"'{answer['msg']}' lacks '{words}'")
        check_equal(answer.get("errno"), errno, words)
        check(not is_locked(stage.leaf, LOCK_BYTE), "a refused join left its lock")

    refused("outside every --root", sources=[unlinked])
    refused("outside every --root", leaf=unlinked)
    refused("outside every --root", leaf={**leaf, "path": str(stage.images / ".." / "outside.raw")})
    refused("another file", leaf={**leaf, "inode": leaf["inode"] + 1})
    refused("another file", sources=[{**base, "device-number": 1}])
    refused("was changed", sources=[{**base, "size": base["size"] + 1}])
    refused("was changed", sources=[{**base, "mtime-ns": base["mtime-ns"] + 1}])
    refused("No such file", "ENOENT", sources=[{**base, "path": str(stage.images / "missing")}])
    refused("", sources=[{**file_reference(stage.base), "path": str(fifo)}])
    refused("lock byte", lock_byte=201)
    refused("clusters of", cluster=65535)
    check_equal(stage.join(number=9, sources=[{**base, "path": str(link_in)}])["type"], "joined", "a link that stays inside")


def what_is_ordered_is_copied_and_zeroes_are_reported(place):
    stage = Stage(place)
    with open(stage.base, "r+b") as file:
        file.seek(2 * CLUSTER)
        file.write(bytes(CLUSTER))
    stage.content = stage.base.read_bytes()
    stage.broker.send("leave", join=3)
    stage.broker.expect("left")
    stage.join()
    answer = stage.copied(stage.order(0, 8))
    check_equal((answer["bytes"], answer["zeroes"]), (7 * CLUSTER, [{"offset": 2 * CLUSTER, "length": CLUSTER}]))
    check(answer["microseconds"] > 0, "it took no time")
    stage.check_copied(0, 8)
    answer = stage.copied(stage.order(2, 1, detect_zeroes=False))
    check_equal((answer["bytes"], answer["zeroes"]), (CLUSTER, []), "zeroes that may not be left out")


def compressed_clusters_are_copied(place):
    stage = Stage(place, joined=False)
    plain = (b"sluice " * CLUSTER)[:CLUSTER]
    packer = zlib.compressobj(wbits=-12)
    stream = packer.compress(plain) + packer.flush()
    packed = stage.images / "packed"
    packed.write_bytes(b"?" * 100 + stream + b"neighbour" * 100)
    stage.join(sources=[file_reference(packed)])
    source = {"codec": "deflate", "length": CLUSTER, "file": 0, "offset": 100, "stored": len(stream) + 300,
              "cluster": CLUSTER, "skip": 0}
    stage.copied(stage.order(0, sources=[source]))
    check(stage.leaf_bytes(0) == plain, "not what was compressed")
    lease = stage.order(1, sources=[{**source, "stored": len(stream) - 1}])
    answer = stage.broker.expect("copy_failed", lease=lease)
    check_equal((answer["operation"], answer["errno"], answer["file"], answer["offset"]),
                ("read", "EIO", str(packed), CLUSTER))


def an_order_is_carried_out_once(place):
    stage = Stage(place)
    lease = stage.order(0)
    stage.copied(lease)
    stage.order(1, lease=lease)
    stage.broker.expect_silence(0.7)
    check(stage.leaf_bytes(1) == bytes(CLUSTER), "an order with a lease seen before was carried out")
    stage.broker.send("copy_stop", lease=555)
    stage.broker.expect("copy_stopped", lease=555)
    stage.order(1, lease=555)
    stage.broker.expect_silence(0.7)
    check(stage.leaf_bytes(1) == bytes(CLUSTER), "an order was carried out after copy_stopped")


def orders_of_another_start_of_the_broker_are_ignored(place):
    stage = Stage(place)
    stage.order(0, generation=3)
    stage.order(1, generation=5)
    stage.broker.expect_silence(0.7)
    check(stage.leaf_bytes(0, 2) == bytes(2 * CLUSTER), "an order of another generation was carried out")
    stage.copied(stage.order(0))


def malformed_orders_fail_and_harm_nothing(place):
    stage = Stage(place)
    before = stage.leaf.read_bytes()
    source = {"codec": "plain", "length": CLUSTER, "file": 0, "offset": 0}
    for words, other in [
            ("header", {"destinations": [{"offset": 0, "length": CLUSTER}]}),
            ("file 1 of 1", {"sources": [{**source, "file": 1}]}),
            ("the sources yield", {"sources": [{**source, "length": 512}]}),
            ("whole clusters", {"destinations": [{"offset": CLUSTER + 512, "length": CLUSTER}]}),
            ("overlap", {"sources": [source, source], "destinations": [{"offset": CLUSTER, "length": CLUSTER}] * 2}),
            ("0 bytes", {"sources": [], "destinations": []})]:
        answer = stage.broker.expect("copy_failed", lease=stage.order(0, **other))
        check_equal((answer["operation"], answer["errno"], answer["file"]), ("write", "EINVAL", str(stage.leaf)))
        check(words in answer["msg"], f"'{answer['msg']}' lacks '{words}'")
        stage.acknowledge(answer["lease"])
    check(stage.leaf.read_bytes() == before, "the leaf was changed")
    stage.broker.expect("copy_stopped", lease=stage.order(0, join=99))
    stage.copied(stage.order(0))


def rubbish_is_ignored(place):
    stage = Stage(place)
    for body in (b"", b"\xc1", b"\x80", b"\xdd\xff\xff\xff\xff", b"\x81\xa4type\xa4none", place.random.randbytes(1000)):
        stage.broker.socket.send_multipart([stage.broker.peer, body])
        stage.broker.socket.send_multipart([stage.broker.peer, b"more", body])
    stage.copied(stage.order(0))
    stage.worker.check_alive()


def a_source_that_got_shorter_is_a_read_error(place):
    stage = Stage(place)
    os.truncate(stage.base, 4 * CLUSTER + 1)
    answer = stage.broker.expect("copy_failed", lease=stage.order(4))
    check_equal((answer["operation"], answer["errno"], answer["file"], answer["offset"], answer["length"]),
                ("read", "EIO", str(stage.base), 4 * CLUSTER, CLUSTER))
    check("unexpected end of file" in answer["msg"], answer["msg"])


def a_full_disk_is_a_write_error(place):
    stage = Stage(place, start=False, joined=False)
    stage.worker = place.start("sluice-worker", "--root", stage.images, limits={resource.RLIMIT_FSIZE: 3 * CLUSTER})
    stage.broker.expect("worker_hello")
    stage.join()
    answer = stage.broker.expect("copy_failed", lease=stage.order(0, 8))
    check_equal((answer["operation"], answer["errno"], answer["file"]), ("write", "EFBIG", str(stage.leaf)))


def reports_are_said_again_until_they_are_acknowledged(place):
    stage = Stage(place)
    first, second = stage.order(0), stage.order(1)
    stage.broker.expect("copied", lease=first)
    if not any(m["type"] == "copied" and m["lease"] == second for m in stage.broker.seen):
        stage.broker.expect("copied", lease=second)
    stage.acknowledge(first)
    stage.broker.send("copy_stop", lease=second)
    stage.broker.expect("copied", lease=second)  # not copy_stopped: it is copied, and says so once more

    stage.broker.unbind()
    stage.broker.generation = 5
    stage.broker.bind()
    stage.broker.expect("worker_hello", 15.0)
    hello = stage.broker.hello
    check_equal((hello["joins"], hello["leases"]), ([3], [second]), "what hello says it holds")
    stage.broker.expect("copied", lease=second)
    stage.acknowledge(second)

    stage.broker.send("worker_unknown")
    stage.broker.expect("worker_hello")
    check_equal(stage.broker.hello["leases"], [], "leases after the acknowledgement")
    stage.broker.expect_silence(0.7)


def it_goes_on_copying_while_the_broker_is_away(place):
    stage = Stage(place, clusters=256, slots=1)
    leases = [stage.long_order(1024), stage.order(0, 256)]
    stage.wait_until_read()
    stage.broker.unbind()
    wait_until(lambda: stage.leaf_bytes(16384 - 1) == stage.content[-CLUSTER:], "the last cluster", 60.0)
    stage.broker.bind()
    stage.broker.expect("worker_hello", 15.0)
    found = [stage.broker.expect("copied", 60.0)["lease"] for _ in leases]
    check_equal(sorted(found), leases, "reports")
    stage.check_copied(0, 256)


def orders_between_hello_and_welcome_are_not_taken(place):
    stage = Stage(place)
    stage.broker.welcomes = False
    stage.broker.send("worker_unknown")
    stage.broker.expect("worker_hello")
    lease = stage.order(0)
    stage.broker.welcome()
    stage.broker.expect_silence(0.7)
    check(stage.leaf_bytes(0) == bytes(CLUSTER), "an order before the welcome was carried out")
    stage.broker.send("copy_stop", lease=lease)
    stage.broker.expect("copy_stopped", lease=lease)


def still(stage, seconds=0.5):
    """Nothing more is said, and nothing written."""
    before = os.stat(stage.leaf).st_mtime_ns
    stage.broker.expect_silence(seconds)
    check_equal(os.stat(stage.leaf).st_mtime_ns, before, "time of the last write")


def a_stop_ends_what_is_copied_and_what_waits(place):
    stage = Stage(place, clusters=256, slots=1)
    held, (running, waiting) = stage.held_long_orders(2)
    progress = stage.broker.expect("copy_progress", 20.0, lease=running)
    check(0 < progress["bytes"] < 2048 * MIB, "progress")
    stage.broker.send("copy_stop", lease=waiting)
    stage.broker.expect("copy_stopped", lease=waiting)
    stage.broker.send("copy_stop", lease=running)
    stage.wait_until_read()
    held.release()
    stage.broker.expect("copy_stopped", lease=running)
    still(stage)
    stage.acknowledge(running)
    stage.acknowledge(waiting)
    stage.copied(stage.order(0))


def leaving_stops_what_is_copied_there_and_only_there(place):
    stage = Stage(place, clusters=256, slots=1)
    other = stage.images / "other.qcow2"
    other.write_bytes(bytes(2 * CLUSTER))
    stage.join(number=4, leaf=file_reference(other), lock_byte=LOCK_BYTE + 1)
    held, (running,) = stage.held_long_orders()
    stage.broker.send("leave", join=3)
    stage.wait_until_read()
    held.release()
    stage.broker.expect("copy_stopped", lease=running)
    stage.broker.expect("left", join=3)
    check(not is_locked(stage.leaf, 201) and is_locked(other, 201), "locks")
    still(stage)
    stage.broker.expect("copy_stopped", lease=stage.order(0))
    stage.copied(stage.order(0, 1, join=4))
    check(other.read_bytes()[CLUSTER:] == stage.content[:CLUSTER], "the other leaf")


def a_worker_that_wakes_up_late_stops(place):
    stage = Stage(place, clusters=256, slots=1)
    held, (lease,) = stage.held_long_orders()
    stage.broker.expect("copy_progress", 20.0, lease=lease)
    stage.worker.signal(signal.SIGSTOP)
    stage.broker.send("copy_stop", lease=lease)
    stage.order(0, lease=9999, generation=3)
    check(is_locked(stage.leaf, LOCK_BYTE), "a stopped worker lost its lock")
    stage.worker.signal(signal.SIGCONT)
    stage.wait_until_read()
    held.release()
    stage.broker.expect("copy_stopped", lease=lease)
    still(stage)


def copying_that_hangs_keeps_neither_heartbeats_nor_the_end_from_coming(place):
    stage = Stage(place, clusters=256, slots=2)
    hung, leases = stage.held_long_orders(2)
    stage.broker.expect("copy_progress", 20.0, lease=leases[0])
    while stage.broker.receive(0.7):  # what was on its way
        pass
    for lease in leases:
        stage.broker.send("copy_stop", lease=lease)
    waiting = stage.order(0)
    stage.broker.send("copy_stop", lease=waiting)
    stage.broker.expect("copy_stopped", lease=waiting)  # no thread had it
    stage.broker.expect("worker_heartbeat")
    stage.broker.expect("worker_heartbeat")
    stage.broker.expect_silence(0.5)
    check(is_locked(stage.leaf, LOCK_BYTE), "a hung worker lost its lock")
    begun = time.monotonic()
    stage.worker.signal(signal.SIGTERM)
    stage.broker.expect("worker_goodbye")
    hung.wait_for_end(15.0)
    check_equal(stage.worker.wait(15.0), 0, "status")
    check(time.monotonic() - begun < 10.0, "it took more than ten seconds")  # 4.5 are what it waits for the copying
    check(not is_locked(stage.leaf, LOCK_BYTE), "locked after its end")


def locks_end_with_the_process(place):
    stage = Stage(place)
    stage.worker.kill()
    check(not is_locked(stage.leaf, 201) and not is_locked(stage.leaf, LOCK_BYTE), "locked after death")


def a_refusal_ends_it_with_status_1(place):
    stage = Stage(place, start=False, joined=False)
    stage.broker.welcomes = False
    worker = stage.start()
    stage.broker.expect("worker_hello")
    stage.broker.send("worker_refused", msg="protocol 1 is not understood")
    check_equal(worker.wait(5.0), 1, "status")
    check("protocol 1 is not understood" in worker.err_text(), worker.err_text())


def sigterm_says_goodbye_and_ends_at_once(place):
    stage = Stage(place)
    stage.worker.signal(signal.SIGTERM)
    stage.broker.expect("worker_goodbye")
    check_equal(stage.worker.wait(AT_ONCE), 0, "status")


def sigterm_while_copying_gives_back_or_finishes(place):
    memory = work_folder()  # no stop is looked at while the disk flushes
    place.finally_do(memory.cleanup)
    stage = Stage(place, clusters=256, slots=1, folder=pathlib.Path(memory.name))
    held, (running, waiting) = stage.held_long_orders(2, megabytes=64)
    stage.worker.signal(signal.SIGTERM)
    begun = time.monotonic()
    stage.broker.expect("worker_goodbye")
    stage.broker.send("copy_stop", lease=7)  # the first answer if the other was not given back at once
    given_back = [stage.broker.expect("copy_stopped")["lease"] for _ in range(2)]
    check_equal(given_back, [waiting, 7], "what no thread had taken up")
    stage.acknowledge(waiting)
    held.release()
    message = stage.broker.expect_one_of("copied", "copy_stopped")
    check_equal(message["lease"], running, "lease")
    stage.acknowledge(running)
    check_equal(stage.worker.wait(15.0), 0, "status")
    check(time.monotonic() - begun < 10.0, "it took more than ten seconds")


def sigterm_without_a_broker_ends_at_once(place):
    worker = place.start("sluice-worker", "--root", place.path)
    check(worker.stop() < AT_ONCE, "it took long")


def wrong_usage_is_status_2(place):
    for options in ([], ["--root", place.path, "--slots", 0], ["--root", place.path, "--name", "a b"],
                    ["--root", place.path, "--broker", "tcp://192.0.2.1:5000"], ["--nonsense"]):
        done = place.call("sluice-worker", *options, status=2)
        check_equal(done.stderr.count("\n"), 1, f"lines for {options}")
    done = place.call("sluice-worker", "--root", place.path / "missing", status=1)
    check("missing" in done.stderr, done.stderr)


run(globals())
