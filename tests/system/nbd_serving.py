#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Guests over NBD: libnbd and its tools as clients, QEMU's tools as judges.  The test plays the broker, or starts a whole system."""

import errno
import json
import os
import pathlib
import socket
import stat
import struct
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "support"))

import images
from harness import Failed, Skip, check, check_equal, own_tcp_address, run, wait_until
from images import GIB, KIB, MIB
from images_broker import simple_chain, start_imaged
from nbd_client import Guest, Wire, refused_to_connect, statuses_of, uri
from random_chain import RandomChain
from system import Judge, System

LIBRARY = os.path.join(os.environ.get("SLUICE_BUILD", ""), "tests/kill_after.so")


def the_exports_are_the_devices_and_no_other_name_is_served(place):
    leaf, _ = simple_chain(place)
    broker, _ = start_imaged(place)
    check_equal(_exports(place), [], "exports before")
    state = broker.attach("d", leaf)
    check_equal(state["nbd"], uri(place, "d"), "URI")
    other = images.create(place.path / "other.qcow2", 3 * MIB)
    broker.attach("other", other)
    check_equal(_exports(place), [("d", 4 * MIB), ("other", 3 * MIB)], "exports")
    for name in ("", "D", "dd", "oth", "other2", "../d", "d/", "x" * 4000):
        refused_to_connect(uri(place, ""), name)
    broker.ask("detach", device="d")
    check_equal(_exports(place), [("other", 3 * MIB)], "exports after a detach")
    refused_to_connect(uri(place, ""), "d")
    place.call("nbdinfo", "--is", "multi-conn", uri(place, "other"))
    for what in ("cache", "flush", "df"):
        place.call("nbdinfo", "--can", what, uri(place, "other"))


def _exports(place):
    found = json.loads(place.call("nbdinfo", "--list", "--json", uri(place, ""), status=None).stdout or '{"exports": []}')
    return sorted((export["export-name"], export["export-size"]) for export in found["exports"])


# ---- reads


def random_chains_read_as_qemu_img_reads_them(place):
    broker, imaged = start_imaged(place)
    for number in range(int(os.environ.get("SLUICE_CHAINS", "25"))):
        folder = place.path / f"chain{number}"
        folder.mkdir()
        chain = RandomChain(place.random, folder)
        try:
            _read_chain(place, broker, chain, folder)
        except Exception:
            print(f"# chain {number}:\n# " + "\n# ".join(chain.story))
            raise
        check(imaged.is_alive(), "imaged lives")


def _read_chain(place, broker, chain, folder):
    reference = images.flatten(chain.leaf, folder / "reference.raw")
    runs = images.allocation(chain.leaf)
    broker.attach("d", chain.leaf)
    place.call("nbdcopy", uri(place, "d"), folder / "copy.raw")
    wanted = reference.read_bytes()
    check((folder / "copy.raw").read_bytes() == wanted, "nbdcopy's copy differs from qemu-img's")
    with Guest(uri(place, "d")) as guest:
        check_equal(guest.size, len(wanted), "size")
        for _ in range(30):
            offset = place.random.randrange(len(wanted))
            length = min(place.random.choice((1, 511, 4096, 65536, 300000)), len(wanted) - offset)
            check(guest.read(length, offset) == wanted[offset:offset + length], f"{length} bytes at {offset}")
        _check_map(guest, runs, wanted)
    wait_until(lambda: _try_detach(broker, "d"), "the guest to have left")


def _check_map(guest, runs, wanted):
    """Zeroes are told where qemu-img tells them, to the byte; and what is told to be zeroes is."""
    told = statuses_of(guest)
    check_equal(sum(length for _, length, _ in told), len(wanted), "bytes told")
    for offset, length, kind in told:
        check(kind in (0, 2, 3), f"status {kind} at {offset}")
        check(not kind & 2 or not any(wanted[offset:offset + length]), f"zeroes told of {length} at {offset}")
    for one in runs:
        for offset, length, kind in told:
            first, end = max(offset, one["start"]), min(offset + length, one["start"] + one["length"])
            if first // 512 >= end // 512:  # QEMU rounds the end of a raw file to sectors
                continue
            if one["zero"] and "offset" in one and not kind & 2:  # a cluster that was never written: QEMU looks for holes beneath it
                continue
            check_equal(bool(kind & 2), one["zero"], f"zero from {first} to {end}")


def _try_detach(broker, device):
    try:
        broker.ask("detach", device=device)
        return True
    except Exception as error:
        check("is in use" in str(error), f"{error}")
        return False


def compressed_clusters_of_both_kinds_are_read(place):
    broker, _ = start_imaged(place)
    plain = images.create_raw(place.path / "plain.raw", 4 * MIB,
                              [(0, b"sluice " * 100000), (2 * MIB + 700, images.pattern(90 * KIB, 1) * 3)])
    for kind in ("zlib", "zstd"):
        for cluster in (4 * KIB, 64 * KIB, 2 * MIB):
            packed = place.path / f"{kind}-{cluster}.qcow2"
            images.tool("qemu-img", "convert", "-c", "-O", "qcow2", "-o", f"compression_type={kind},cluster_size={cluster}", plain, packed)
            leaf = images.create(place.path / f"leaf-{kind}-{cluster}.qcow2", 5 * MIB, packed.name)
            device = f"{kind}-{cluster}"
            broker.attach(device, leaf)
            with Guest(uri(place, device)) as guest:
                check(guest.read(4 * MIB, 0) == plain.read_bytes(), f"{device} in one read")
                check_equal(guest.read(MIB, 4 * MIB), bytes(MIB), "past the base's end")
                for offset in range(0, 4 * MIB, 333333):
                    check(guest.read(5000, offset) == plain.read_bytes()[offset:offset + 5000], f"{device} at {offset}")


def a_damaged_layer_fails_the_reads_that_need_it_and_no_other(place):
    plain = images.create_raw(place.path / "plain.raw", MIB, [(0, b"sluice " * 149796)])
    images.tool("qemu-img", "convert", "-c", "-O", "qcow2", plain, place.path / "packed.qcow2")
    leaf = images.create(place.path / "leaf.qcow2", MIB, "packed.qcow2")
    with open(place.path / "packed.qcow2", "r+b") as file:
        l1_offset, = struct.unpack_from(">Q", file.read(104), 40)
        file.seek(l1_offset)
        l2_offset = int.from_bytes(file.read(8), "big") & 0xfffffffffffe00
        file.seek(l2_offset)
        file.seek(int.from_bytes(file.read(8), "big") & (1 << 54) - 1)  # the first cluster's stream
        file.write(b"\xff" * 40)
    broker, imaged = start_imaged(place)
    broker.attach("d", leaf)
    with Guest(uri(place, "d")) as guest:
        for _ in range(3):
            check_equal(guest.error(lambda: guest.read(512, 100)), errno.EIO, "the read's error")
        check(guest.read(64 * KIB, 512 * KIB) == plain.read_bytes()[512 * KIB:576 * KIB], "another cluster")
    check("a guest's read at offset 100 failed" in imaged.err_text(), f"said in the log: {imaged.err_text()}")


def a_map_of_many_gibibytes_comes_in_pieces(place):
    """nbdkit 1.32 ends where it is told of more than 4 GiB at once."""
    leaf = images.create(place.path / "leaf.qcow2", 20 * GIB)
    images.io(leaf, "write 0 64k", f"write {13 * GIB} 64k", f"write {20 * GIB - 65536} 64k")
    raw = images.create_raw(place.path / "leaf.raw", 9 * GIB + 1)
    broker, imaged = start_imaged(place)
    broker.attach("d", leaf)
    broker.attach("r", raw)
    with Guest(uri(place, "d")) as guest:
        first = guest.status(0xffffffff, 0)
        check_equal(first, [(64 * KIB, 0), (GIB - 64 * KIB, 3)], "the first piece")
        found = [(offset, length) for offset, length, kind in statuses_of(guest) if kind == 0]
        check_equal(found, [(0, 64 * KIB), (13 * GIB, 64 * KIB), (20 * GIB - 64 * KIB, 64 * KIB)], "data")
    with Guest(uri(place, "r")) as guest:
        check_equal(guest.status(0xffffffff, GIB), [(GIB, 3)], "a piece in the middle")
        check_equal(statuses_of(guest), [(0, 9 * GIB + 1, 3)], "all")
    images.tool("qemu-img", "map", "-f", "raw", uri(place, "d"))
    imaged.check_alive()


def the_answer_to_a_read_is_sent_in_one_piece(place):
    leaf, _ = simple_chain(place)
    broker, _ = start_imaged(place)
    broker.attach("d", leaf)
    wire = Wire(place, "d")
    # whatever is sent takes some 800 bytes of the sender's buffer until it is taken: there is room for so many pieces, not for three times as many
    count = wire.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 1200
    wire.ask(count)
    wait_until(lambda: wire.arrived() == count * 29, f"{count} answers that nobody takes")
    wire.close()


def several_clients_read_at_once(place):
    leaf, reference = simple_chain(place)
    wanted = reference.read_bytes()
    broker, _ = start_imaged(place)
    broker.attach("d", leaf)
    readers = [Reader(uri(place, "d"), wanted, seed) for seed in range(6)]
    wait_until(lambda: all(reader.rounds > 50 for reader in readers) or broker.turn(0.05), "all to read")
    for reader in readers:
        reader.end()


class Reader(threading.Thread):
    """Reads here and there, over one connection, until it is told to end; keeps what was wrong."""

    def __init__(self, where, wanted, seed):
        super().__init__(daemon=True)
        self.where, self.wanted, self.seed = where, wanted, seed
        self.rounds, self.wrong, self.is_over = 0, None, False
        self.start()

    def run(self):
        import random
        numbers = random.Random(self.seed)
        try:
            with Guest(self.where) as guest:
                while not self.is_over:
                    offset = numbers.randrange(len(self.wanted))
                    length = min(numbers.choice((1, 700, 4096, 65536, 200000)), len(self.wanted) - offset)
                    if guest.read(length, offset) != self.wanted[offset:offset + length]:
                        self.wrong = f"{length} bytes at {offset} are not what they were"
                        return
                    self.rounds += 1
        except Exception as error:
            self.wrong = error

    def end(self):
        self.is_over = True
        self.join(20)
        if self.is_alive() or self.wrong:
            raise Failed(f"a guest after {self.rounds} reads: {self.wrong or 'a read hangs'}")


# ---- devices come and go


def a_device_stays_while_a_guest_is_connected(place):
    leaf, reference = simple_chain(place)
    broker, _ = start_imaged(place)
    broker.attach("d", leaf)
    with Guest(uri(place, "d")) as guest:
        refusal = broker.refused("detach", "DeviceInUse", device="d")
        check_equal(refusal.msg, "Device 'd' is in use", "words")
        check(guest.read(4096, 0) == reference.read_bytes()[:4096], "it is still served")
        with Guest(uri(place, "d")) as second:
            check(second.read(4096, 0) == reference.read_bytes()[:4096], "to others too")
    wait_until(lambda: _try_detach(broker, "d"), "the guest to have left")
    refused_to_connect(uri(place, ""), "d")


def devices_come_and_go_while_another_is_read(place):
    leaf, reference = simple_chain(place)
    broker, imaged = start_imaged(place)
    broker.attach("d", leaf)
    readers = [Reader(uri(place, "d"), reference.read_bytes(), seed) for seed in range(3)]
    for number in range(20):
        other = images.create(place.path / f"other{number}.qcow2", MIB)
        broker.attach("other", other)
        with Guest(uri(place, "other")) as guest:
            check_equal(guest.read(100, 5), bytes(100), "an empty image")
        wait_until(lambda: _try_detach(broker, "other"), "the guest to have left")
    for reader in readers:
        reader.end()
    imaged.check_alive()


def a_job_runs_and_the_chain_shrinks_while_guests_read(place):
    size = 32 * MIB
    base = images.create_raw(place.path / "base.raw", size - 100 * KIB, [(0, images.pattern(size // 2, 5)), (20 * MIB, b"x" * MIB)])
    mid = images.create(place.path / "mid.qcow2", size - MIB, "base.raw")
    images.io(mid, "write -P 7 1M 3M", "write -z 8M 1M")
    leaf = images.create(place.path / "leaf.qcow2", size, "mid.qcow2")
    judge = Judge(place, leaf, [base, mid])
    wanted = judge.reference.read_bytes()
    system = System(place)
    system.attach(leaf)
    where = system.client.call("query-devices", device="vda")[0]["nbd"]
    check_equal(where, uri(place, "vda"), "URI")
    readers = [Reader(where, wanted, seed) for seed in range(3)]
    system.complete(base="base.raw")
    check(all(reader.wrong is None for reader in readers), f"after one: {[reader.wrong for reader in readers]}")
    system.complete()
    for reader in readers:
        before = reader.rounds
        wait_until(lambda: reader.rounds > before + 20 or reader.wrong, "reads after the end")  # pylint: disable=cell-var-from-loop
    check(not system.try_detach("vda"), "detached under a guest")
    for reader in readers:
        reader.end()
    place.call("nbdcopy", where, place.path / "copy.raw")
    check((place.path / "copy.raw").read_bytes() == wanted, "the copy afterwards")
    wait_until(lambda: system.try_detach("vda"), "the guests to have left")
    system.stop_all()
    judge.judge()


# ---- a raw leaf


def a_raw_leaf_named_so_is_written_by_guests(place):
    raw = images.create_raw(place.path / "leaf.raw", MIB + 1, [(0, b"a" * MIB)])
    broker, imaged = start_imaged(place)
    broker.attach("guessed", raw)
    with Guest(uri(place, "guessed")) as guest:
        check(guest.is_read_only, "a raw file whose format was guessed is read-only")
    wait_until(lambda: _try_detach(broker, "guessed"), "the guest to have left")
    broker.attach("d", raw, format="raw")
    wanted = bytearray(raw.read_bytes())
    with Guest(uri(place, "d")) as guest, Guest(uri(place, "d")) as second:
        check(not guest.is_read_only, "writable")
        guest.write(b"b" * 5000, 1234)
        wanted[1234:6234] = b"b" * 5000
        guest.write(b"c", MIB, fua=True)
        wanted[MIB] = ord("c")
        for offset, may_trim in ((100000, False), (300000, True)):
            guest.zero(70000, offset, may_trim)
            wanted[offset:offset + 70000] = bytes(70000)
        guest.trim(65536, 524288)
        guest.flush()
        wanted[524288:524288 + 65536] = second.read(65536, 524288)  # whatever a discard left there
        check(second.read(MIB + 1, 0) == wanted, "what another client sees")
    wait_until(lambda: _try_detach(broker, "d"), "the guests to have left")
    check(raw.read_bytes() == wanted, "the file")
    imaged.stop()


def a_failed_device_goes_on_for_who_connects_when_it_is_attached_anew(place):
    if not os.path.exists(LIBRARY):
        raise Skip("SLUICE_BUILD does not name a build folder")
    raw = images.create_raw(place.path / "leaf.raw", MIB)
    sign = place.path / "flushes-fail"
    broker, _ = start_imaged(place, environment={"LD_PRELOAD": LIBRARY, "SLUICE_KILL_UNDER": raw, "SLUICE_FLUSH_FAILS": sign})
    broker.attach("d", raw, format="raw")
    with Guest(uri(place, "d")) as guest:
        guest.write(b"1" * 512, 0)
        guest.flush()
        sign.touch()
        check_equal(guest.error(guest.flush), errno.EIO, "a flush that fails")
        sign.unlink()
        check_equal(guest.error(guest.flush), errno.EIO, "the next flush")
        check_equal(guest.error(lambda: guest.write(b"2" * 512, 0)), errno.EIO, "a write")
        wait_until(lambda: broker.failed or broker.turn(0.05), "the failure to be told")
        check_equal(broker.failed[0]["device"], "d", "who failed")
        broker.attach("d", raw, format="raw")
        _expect_told(guest)
        with Guest(uri(place, "d")) as later:
            later.write(b"3" * 512, 0)
            later.flush()
            check_equal(guest.read(512, 0), b"3" * 512, "after it was attached anew")
            sign.touch()
            later.error(later.flush)
        wait_until(lambda: len(broker.failed) > 1 or broker.turn(0.05), "the failure to be told again")
        sign.unlink()
        os.truncate(raw, 2 * MIB)
        broker.attach("d", raw, format="raw")
        check_equal(guest.error(lambda: guest.read(512, 0)), errno.EIO, "a device of another size")
        with Guest(uri(place, "d")) as later:
            check_equal((later.size, later.read(512, 0)), (2 * MIB, b"3" * 512), "a guest that comes now")


def _expect_told(guest):
    """What it was answered for may be lost: it reads on, and no flush or write of this connection is answered as if nothing were."""
    for _ in range(2):
        check_equal(guest.error(guest.flush), errno.EIO, "a flush of who was connected")
        check_equal(guest.error(lambda: guest.write(b"2" * 512, 512)), errno.EIO, "a write of who was connected")
        check_equal(guest.error(lambda: guest.write(b"2" * 512, 512, fua=True)), errno.EIO, "a durable write of who was connected")
    guest.read(512, 0)


def _events(system, event, device):
    return len([one for one in system.client.all_events(event=event) if one["data"]["device"] == device])


def a_device_that_failed_is_mended_under_its_guests(place):
    """The broker has it detached and attached anew by itself; the guests' connections live through that, also of one that was idle
    while its answered writes were lost: it must not be told that they are durable."""
    if not os.path.exists(LIBRARY):
        raise Skip("SLUICE_BUILD does not name a build folder")
    leaves = {"raw": images.create_raw(place.path / "leaf.raw", MIB), "qcow2": images.create(place.path / "leaf.qcow2", MIB)}
    sign = place.path / "flushes-fail"
    system = System(place, workers=0, start=False)
    system.start_broker()
    system.start_imaged({"LD_PRELOAD": LIBRARY, "SLUICE_KILL_UNDER": place.path / "leaf", "SLUICE_FLUSH_FAILS": sign})
    for kind, leaf in leaves.items():
        system.attach(leaf, device=kind, format=kind)
        with Guest(uri(place, kind)) as guest, Guest(uri(place, kind)) as idle:
            guest.write(b"1" * 512, 0)
            guest.flush()
            guest.write(b"2" * 512, 0)
            idle.write(b"2" * 512, 65536)
            sign.touch()
            check_equal(guest.error(guest.flush), errno.EIO, f"a flush of {kind} that fails")
            wait_until(lambda: _events(system, "DEVICE_OFFLINE", kind), "the failure to be told", 20)  # pylint: disable=cell-var-from-loop
            sign.unlink()
            wait_until(lambda: _events(system, "DEVICE_ONLINE", kind) == 2, "it to be attached anew", 20)  # pylint: disable=cell-var-from-loop
            _expect_told(guest)
            _expect_told(idle)
            with Guest(uri(place, kind)) as later:
                later.write(b"3" * 512, 512)
                later.flush()
                check_equal(guest.read(512, 512), b"3" * 512, "what was written then")
            check(not system.try_detach(kind), "detached under a guest")
        wait_until(lambda: system.try_detach(kind), "the guest to have left")  # pylint: disable=cell-var-from-loop
    images.check_clean(leaves["qcow2"])
    system.imaged.stop()
    system.broker.stop()


# ---- the end, and the next beginning


def an_idle_guest_does_not_hold_up_the_end(place):
    leaf, _ = simple_chain(place)
    broker, imaged = start_imaged(place)
    broker.attach("d", leaf)
    with Guest(uri(place, "d")) as guest, Guest(uri(place, "d")):
        guest.read(512, 0)
        took = imaged.stop(10)
        print(f"# it took {took:.2f} s")
    check(not os.path.exists(place.run_dir / "nbd"), "the socket's file is gone")
    images.check_clean(leaf)


def a_busy_guest_sees_the_connection_end_and_no_error(place):
    leaf, reference = simple_chain(place)
    broker, imaged = start_imaged(place)
    for _ in range(5):
        broker.attach("d", leaf)
        reader = Reader(uri(place, "d"), reference.read_bytes(), 1)
        wait_until(lambda: reader.rounds > 20 or reader.wrong, "reads")  # pylint: disable=cell-var-from-loop
        imaged.stop(10)
        reader.join(10)
        check(reader.wrong is not None and Guest.is_disconnection(reader.wrong), f"the end of the reads: {reader.wrong!r}")
        imaged = place.start("sluice-imaged", "--root", place.path)
        broker.wait_hello()


def clients_that_die_in_the_middle_end_nobody_else(place):
    leaf, _ = simple_chain(place)
    broker, imaged = start_imaged(place)
    broker.attach("d", leaf)
    with Guest(uri(place, "d")) as guest:
        for number in range(int(os.environ.get("SLUICE_TEST_ROUNDS", "60"))):
            wire = Wire(place, "d")
            wire.ask(48, place.random.choice((1, 4 * KIB, 64 * KIB)))
            wire.ask(4, 4 * MIB, Wire.MAP)
            if number % 4 == 0:
                wire.socket.sendall(b"half a request")
            elif number % 4 == 1:
                wire.ask(1, 64 * KIB, Wire.WRITE)  # and not all of its bytes
                wire.socket.sendall(b"x" * 5000)
            elif number % 4 == 2:
                wire.socket.shutdown(socket.SHUT_RD)
            time.sleep(place.random.choice((0, 0, 0.001, 0.003)))  # that it dies in another moment each time
            wire.close()
            guest.read(4 * KIB, 0)
    imaged.check_alive()
    broker.turn(0)
    wait_until(lambda: _try_detach(broker, "d"), "detaching")


def a_socket_of_the_dead_is_replaced_and_one_of_the_living_is_not(place):
    leaf, _ = simple_chain(place)
    first = place.start("sluice-imaged", "--root", place.path, "--device", f"d={leaf}")
    first.kill()
    check(stat.S_ISSOCK(os.stat(place.run_dir / "nbd").st_mode), "it left its socket")
    second = place.start("sluice-imaged", "--root", place.path, "--device", f"d={leaf}")
    check_equal(stat.S_IMODE(os.stat(place.run_dir / "nbd").st_mode), 0o660, "mode of the socket")
    done = place.call("sluice-imaged", "--root", place.path, "--name", "another", status=1)
    check("nbd: somebody listens there already" in done.stderr, f"what it says: {done.stderr}")
    check_equal(done.stderr.count("\n"), 1, "lines")
    with Guest(uri(place, "d")) as guest:
        guest.read(512, 0)
    second.stop()
    file = place.path / "file"
    file.write_text("mine")
    place.call("sluice-imaged", "--root", place.path, "--nbd", f"unix:{file}", status=1)
    check_equal(file.read_text(), "mine", "a file that is no socket")


def all_addresses_serve_and_the_first_is_told(place):
    leaf, _ = simple_chain(place)
    address = own_tcp_address()
    broker, imaged = start_imaged(place, "--nbd", f"tcp:{address}", "--nbd", f"unix:{place.path}/a b", "--nbd", f"unix:{place.path}/c")
    check_equal(broker.attach("d", leaf)["nbd"], f"nbd://{address}/d", "URI")
    for where in (f"nbd://{address}/d", f"nbd+unix:///d?socket={place.path}/a%20b", f"nbd+unix:///d?socket={place.path}/c"):
        with Guest(where) as guest:
            check_equal(guest.size, 4 * MIB, f"size at {where}")
    imaged.stop()
    check(not os.path.exists(place.path / "a b") and not os.path.exists(place.path / "c"), "both files are gone")
    broker, imaged = start_imaged(place, "--nbd", f"unix:{place.path}/a b")
    check_equal(broker.attach("d", leaf)["nbd"], f"nbd+unix:///d?socket={place.path}/a%20b", "URI of a path with a space")


def an_address_that_strangers_reach_is_refused(place):
    for options, status in ((["tcp:0.0.0.0:0"], 2), (["tcp::0"], 2), (["tcp:192.0.2.1:1"], 2), (["tcp:127.0.0.1"], 2), (["tcp:[::1]"], 2),
                            (["tcp:127.0.0.1:70000"], 2), (["unix:"], 2), (["/x"], 2), (["none", "none"], 2), (["unix:/nowhere/x"], 1),
                            (["unix:/" + "x" * 110], 1), (["none", "unix:/tmp/x"], 2)):
        words = [word for address in options for word in ("--nbd", address)]
        done = place.call("sluice-imaged", "--root", place.path, *words, status=status)
        check_equal(done.stderr.count("\n"), 1, f"lines for {options}: {done.stderr}")
    for words in (["--nbd-tls", "maybe"], ["--nbd-tls-psk", "x"], ["--nbd-tls", "on"], ["--nbd-tls", "require"], ["--nbd-tls", "on", "--nbd-tls-psk", "x", "--nbd-tls-certificates", "y"]):
        place.call("sluice-imaged", "--root", place.path, *words, status=2)
    done = place.call("sluice-imaged", "--root", place.path, "--nbd-tls", "on", "--nbd-tls-certificates", place.path, status=1)
    check("ca-cert.pem" in done.stderr, f"which certificate is missing: {done.stderr}")
    done = place.call("sluice-imaged", "--root", place.path, "--nbd-group", "no-such-group", status=1)
    check("no-such-group" in done.stderr and not os.path.exists(place.run_dir / "nbd"), "an unknown group")
    imaged = place.start("sluice-imaged", "--root", place.path, "--nbd", "tcp:0.0.0.0:0", "--insecure")
    imaged.stop()


def the_group_that_is_named_owns_the_socket(place):
    import grp
    if os.geteuid() != 0:
        raise Skip("only root may give a file to any group")
    imaged = place.start("sluice-imaged", "--root", place.path, "--nbd-group", "daemon")
    found = os.stat(place.run_dir / "nbd")
    check_equal((found.st_gid, stat.S_IMODE(found.st_mode)), (grp.getgrnam("daemon").gr_gid, 0o660), "group and mode")
    imaged.stop()


def without_guests_there_is_no_socket(place):
    leaf, reference = simple_chain(place)
    broker, imaged = start_imaged(place, "--nbd", "none")
    check_equal(broker.attach("d", leaf)["nbd"], "", "URI")
    check(not os.path.exists(place.run_dir / "nbd"), "no socket")
    broker.stream("d")
    imaged.stop()
    images.compare(leaf, reference)


def sockets_that_systemd_passes_are_served(place):
    leaf, _ = simple_chain(place)
    path = place.path / "passed"
    port = place.path / "port"
    code = ("import os, socket, sys; one = socket.socket(socket.AF_UNIX); one.bind(sys.argv[1]); one.listen(); "
            "two = socket.socket(); two.bind(('127.0.0.1', 0)); two.listen(); "
            "print(two.getsockname()[1], end='', file=open(sys.argv[2], 'w'), flush=True); "
            "a, b = os.dup2(one.fileno(), 20), os.dup2(two.fileno(), 21); os.dup2(a, 3); os.dup2(b, 4); "
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2', LISTEN_FDNAMES='x:y'); os.execv(sys.argv[3], sys.argv[3:])")
    wrap = (sys.executable, "-c", code, path, port)
    imaged = place.start("sluice-imaged", "--root", place.path, "--device", f"d={leaf}", wrap=wrap)
    for where in (f"nbd+unix:///d?socket={path}", f"nbd://127.0.0.1:{port.read_text()}/d"):
        with Guest(where) as guest:
            check_equal(guest.size, 4 * MIB, f"size at {where}")
    imaged.stop()
    check(path.exists() and not os.path.exists(place.run_dir / "nbd"), "the socket that was passed is left alone, and none made")
    path.unlink()
    other = place.start("sluice-imaged", "--root", place.path, "--nbd", "unix:/tmp/x", wrap=wrap, ready=False)
    check_equal(other.wait(), 2, "exit status with --nbd besides")


def guests_with_the_key_are_served_and_others_are_not(place):
    keys = place.path / "keys.psk"
    leaf, _ = simple_chain(place)
    place.call("psktool", "-u", "alice", "-p", keys)
    for kind in ("require", "on"):
        broker, imaged = start_imaged(place, "--nbd-tls", kind, "--nbd-tls-psk", keys)
        check_equal(broker.attach("d", leaf)["nbd"], uri(place, "d").replace("nbd+", "nbds+"), "URI")
        where = f"nbds+unix://alice@/d?socket={place.run_dir}/nbd&tls-psk-file={keys}"
        with Guest(where, allow_files=True) as guest:
            check_equal(guest.read(512, MIB), bytes(512), "read over TLS")
        if kind == "require":
            refused_to_connect(uri(place, "d"), "d")
        else:
            with Guest(uri(place, "d")) as guest:
                guest.read(512, 0)
        imaged.stop()
        broker.close()


run(globals())
