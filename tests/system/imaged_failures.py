#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""imaged by itself, when something dies, comes too late or is stopped: the test plays the broker and the workers."""

import errno
import os
import pathlib
import signal
import struct
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "support"))

import images
from harness import Failed, Skip, check, check_equal, run, wait_until
from images import KIB, MIB
from images_broker import HandWorker, ImagesBroker, Refused, check_done, simple_chain, start_imaged
from nbd_client import Guest, uri


# ---- those who come too late


def a_late_write_after_an_abort_changes_nothing(place):
    leaf, reference = simple_chain(place)
    broker, _ = start_imaged(place)
    broker.attach("d", leaf)
    broker.ask("open_job", device="d", job="d")
    late, worker = HandWorker(broker, "d"), HandWorker(broker, "d")
    orders = [broker.ask("reserve", device="d", job="d", join=late.join, offset=0, length=MIB),
              broker.ask("reserve", device="d", job="d", join=late.join, offset=2 * MIB, length=MIB)]
    broker.ask("abort", lease=orders[0]["lease"], stopped=False)
    broker.ask("end_join", join=late.join, stopped=False)
    broker.refused("commit", "GenericError", lease=orders[1]["lease"], zeroes=[])
    broker.refused("reserve", "GenericError", "not confirmed", device="d", job="d", join=late.join, offset=0, length=MIB)
    broker.fill(worker, "d", "d")
    for order in orders:
        late.scribble(order)
    broker.ask("finish", device="d", job="d", backing_name="", backing_format="")
    for order in orders:
        late.scribble(order)
    late.die()
    worker.leave()
    wait_until(lambda: images.disk_usage(leaf) < 2 * MIB or broker.turn(0.05), "quarantine ends and its space is given back")
    broker.ask("detach", device="d")
    check_done(leaf, reference)


def a_worker_that_reported_frees_its_clusters_at_once(place):
    leaf, reference = simple_chain(place)
    broker, _ = start_imaged(place)
    broker.attach("d", leaf)
    broker.ask("open_job", device="d", job="d")
    worker = HandWorker(broker, "d")
    order = broker.ask("reserve", device="d", job="d", join=worker.join, offset=2 * MIB, length=MIB)
    broker.ask("abort", lease=order["lease"], stopped=False)
    broker.ask("abort", lease=order["lease"], stopped=True)
    again = broker.ask("reserve", device="d", job="d", join=worker.join, offset=2 * MIB, length=MIB)
    check_equal(again["destinations"], order["destinations"], "the same clusters")
    check(again["lease"] != order["lease"], "another lease")
    broker.ask("abort", lease=again["lease"], stopped=True)
    broker.ask("close_job", device="d", job="d")
    worker.leave()
    broker.ask("detach", device="d")
    check_done(leaf, reference, "base.raw")


def a_join_is_confirmed_only_with_the_same_file_and_the_lock(place):
    leaf, _ = simple_chain(place)
    broker, _ = start_imaged(place)
    broker.attach("d", leaf)
    broker.ask("open_job", device="d", job="d")
    worker = HandWorker(broker, "d", confirm=False)
    for other in ({"boot_id": "x"}, {"inode": 1}, {"device_number": 1}):
        try:
            worker.confirm(**other)
        except Refused:
            continue
        raise Failed(f"confirmed with {other}")
    broker.refused("reserve", "GenericError", "not confirmed", device="d", job="d", join=worker.join, offset=0, length=MIB)
    again = broker.ask("prepare_join", device="d", worker=worker.name, incarnation=HandWorker.count)
    check_equal((again["join"], again["lock-byte"]), (worker.join, worker.prepared["lock-byte"]), "the same join")
    check(worker.prepared["lock-byte"] > 1 << 40, "a byte that QEMU does not use")
    worker.confirm()
    worker.die()
    gone = HandWorker(broker, "d", confirm=False)
    os.close(gone.leaf)
    gone.leaf = os.open(leaf, os.O_RDWR)
    try:
        gone.confirm()
    except Refused as refusal:
        check("lock byte" in refusal.msg, refusal.msg)
    else:
        raise Failed("confirmed without the lock")
    broker.refused("confirm_join", "GenericError", join=5, boot_id="x", device_number=1, inode=1)


def leaks_of_a_killed_imaged_wait_for_the_last_late_worker(place):
    leaf, reference = simple_chain(place)
    broker, imaged = start_imaged(place)
    broker.attach("d", leaf)
    broker.ask("open_job", device="d", job="d")
    late = HandWorker(broker, "d")
    order = broker.ask("reserve", device="d", job="d", join=late.join, offset=2 * MIB, length=MIB)
    imaged.kill()
    imaged = place.start("sluice-imaged", "--root", place.path)
    broker.wait_hello()
    check_equal((broker.hello["joins"], broker.hello["leases"]), ([], []), "a new life knows nothing")
    broker.attach("d", leaf)
    broker.refused("commit", "GenericError", lease=order["lease"], zeroes=[])
    opened, _ = broker.stream("d")
    late.scribble(order)
    size = os.path.getsize(leaf)
    late.die()
    wait_until(lambda: "reclaiming" in imaged.err_text() or broker.turn(0.05), "the leaks are reclaimed")
    broker.ask("detach", device="d")
    check(os.path.getsize(leaf) <= size, "the file did not grow")
    check_done(leaf, reference)


def kills_at_any_moment_leave_a_leaf_that_can_be_finished(place):
    leaf, reference = simple_chain(place, cluster_size=4096)
    broker, imaged = start_imaged(place)
    pristine = leaf.read_bytes()
    for number in range(int(os.environ.get("SLUICE_KILLS", "12"))):
        leaf.write_bytes(pristine)
        _kill_at(place, broker, imaged, leaf, place.random.randrange(1, 60))
        images.check_no_error(leaf)
        images.compare(leaf, reference)
        imaged = place.start("sluice-imaged", "--root", place.path)
        broker.wait_hello()
        broker.attach("d", leaf)
        broker.stream("d")
        broker.ask("detach", device="d")
        check_done(leaf, reference)


def _kill_at(place, broker, imaged, leaf, steps):
    """Kills imaged after so many requests, or right after one was sent."""
    broker.attach("d", leaf)
    broker.ask("open_job", device="d", job="d")
    worker = HandWorker(broker, "d")
    offset = 0
    for step in range(steps):
        order = broker.ask("reserve", device="d", job="d", join=worker.join, offset=offset, length=4 * MIB - offset)
        if not order["length"]:
            break
        part = min(order["length"], 128 * KIB)
        if part < order["length"]:
            broker.ask("abort", lease=order["lease"], stopped=True)
            order = broker.ask("reserve", device="d", job="d", join=worker.join, offset=order["offset"], length=part)
        zeroes = worker.copy(order)
        if step == steps - 1:
            broker.post("commit", lease=order["lease"], zeroes=zeroes)
            time.sleep(place.random.random() / 500)
            break
        broker.ask("commit", lease=order["lease"], zeroes=zeroes)
        offset = order["offset"] + order["length"]
    else:
        order = None
    if not order or not order["length"]:
        broker.post("finish", device="d", job="d", backing_name="", backing_format="")
        time.sleep(place.random.random() / 100)
    imaged.kill()
    worker.die()


# ---- no space


def _small_disk(place, size):
    """A tmpfs of that size, unmounted at the end."""
    if os.getuid() != 0:
        raise Skip("mounting wants root")
    folder = place.path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], stderr=subprocess.PIPE)
    if done.returncode != 0:
        raise Skip(f"no tmpfs here: {done.stderr.decode().strip()}")
    place.finally_do(lambda: subprocess.run(["umount", "-l", folder], check=True))
    return folder


def a_copy_that_cannot_fit_is_refused_and_one_that_does_not_fit_any_more_fails(place):
    folder = _small_disk(place, 16 * MIB)
    base = images.create_raw(place.path / "base.raw", 32 * MIB, [(0, images.pattern(MIB, 1) * 20)])
    leaf = images.create(folder / "leaf.qcow2", 32 * MIB, str(base))
    broker, _ = start_imaged(place)
    broker.attach("d", leaf)
    broker.refused("open_job", "NoSpace", "does not fit", device="d", job="d")
    broker.refused("plan", "NoSpace", "does not fit", device="d")
    subprocess.run(["mount", "-o", f"remount,size={48 * MIB}", folder], check=True)
    broker.ask("open_job", device="d", job="d")
    worker = HandWorker(broker, "d")
    broker.copy_range(worker, "d", "d", 0, 2 * MIB)
    ballast = folder / "ballast"
    ballast.write_bytes(b"x" * (48 * MIB - images.disk_usage(leaf) - 3 * MIB))
    refusal = None
    for offset in range(2 * MIB, 20 * MIB, MIB):
        try:
            broker.copy_range(worker, "d", "d", offset, MIB)
        except Refused as found:
            refusal = found
            break
    check(refusal is not None, "the disk filled up")
    check_equal((refusal.error_class, refusal.message["errno"], refusal.message["operation"], refusal.message["file"]),
                ("NoSpace", "ENOSPC", "write", str(leaf)), "error")
    check_equal(broker.failed, [], "the image is still good")
    broker.ask("close_job", device="d", job="d")
    worker.leave()
    ballast.unlink()
    broker.stream("d")
    broker.ask("detach", device="d")
    check_done(leaf, base)


# ---- a disk that fails


def _start_on_a_bad_disk(place, leaf):
    """Flushes fail while the file `sign` is there.  The leaf is attached as d."""
    library = os.path.join(os.environ.get("SLUICE_BUILD", ""), "tests/kill_after.so")
    if not os.path.exists(library):
        raise Skip("SLUICE_BUILD does not name a build folder")
    sign = place.path / "flushes-fail"
    broker = ImagesBroker(place)
    imaged = place.start("sluice-imaged", "--root", place.path, environment={
        "LD_PRELOAD": library, "SLUICE_FLUSH_FAILS": sign, "SLUICE_KILL_UNDER": leaf})
    broker.wait_hello()
    broker.attach("d", leaf)
    return broker, imaged, sign


def a_failed_flush_fails_the_device_until_it_is_attached_anew(place):
    leaf, reference = simple_chain(place)
    broker, imaged, sign = _start_on_a_bad_disk(place, leaf)
    broker.ask("open_job", device="d", job="d")
    worker = HandWorker(broker, "d")
    broker.fill(worker, "d", "d")
    sign.write_text("")
    end = {"device": "d", "job": "d", "backing_name": "", "backing_format": ""}
    refusal = broker.refused("finish", "GenericError", "Input/output error", **end)
    check_equal((refusal.message["errno"], refusal.message["operation"]), ("EIO", "flush"), "error")
    wait_until(lambda: broker.failed or broker.turn(0.05), "device_failed is said")
    check_equal((broker.failed[0]["device"], broker.failed[0]["errno"]), ("d", "EIO"), "what failed")
    sign.unlink()
    broker.refused("finish", "GenericError", "attached anew", **end)  # a flush is never simply tried again
    broker.refused("reserve", "GenericError", device="d", job="d", join=worker.join, offset=0, length=64 * KIB)
    broker.ask("end_join", join=worker.join, stopped=True)
    worker.die()
    check_equal(images.info(leaf)["backing-filename"], "base.raw", "backing file")
    broker.attach("d", leaf)
    broker.stream("d")
    broker.ask("detach", device="d")
    check_done(leaf, reference)
    check_equal(len(broker.failed), 1, "times that it was said")
    imaged.stop()


def a_flush_that_failed_for_a_worker_is_the_devices(place):
    leaf, _ = simple_chain(place)
    broker, _, sign = _start_on_a_bad_disk(place, leaf)
    broker.ask("open_job", device="d", job="d")
    worker = HandWorker(broker, "d")
    with Guest(uri(place, "d")) as guest:
        guest.write(b"g" * 512, 3 * MIB)
        guest.flush()  # of guests nothing is left to be flushed
    orders = [broker.ask("reserve", device="d", job="d", join=worker.join, offset=first, length=MIB) for first in (0, 2 * MIB)]
    sign.write_text("")
    broker.ask("abort", lease=orders[0]["lease"], stopped=True)
    broker.work_map("d", "d")  # whatever the abort brought has been said
    check_equal(broker.failed, [], "what failed")
    broker.ask("abort", lease=orders[1]["lease"], stopped=True, flush_failed=True)
    wait_until(lambda: broker.failed or broker.turn(0.05), "device_failed is said")
    check_equal((broker.failed[0]["device"], broker.failed[0]["errno"]), ("d", "EIO"), "what failed")
    sign.unlink()
    worker.die()


def a_device_whose_damage_keeps_writes_out_is_detached_with_its_log(place):
    """Unlike a lack of room nothing would ever change that; the log waits for a repaired image."""
    leaf, _ = simple_chain(place)
    images.io(leaf, "write 0 64k")
    broker, _ = start_imaged(place)
    with open(leaf, "r+b") as file:
        header = file.read(56)
        l1, counts = struct.unpack(">Q", header[40:48])[0], struct.unpack(">Q", header[48:56])[0]
        table, block = (struct.unpack(">Q", os.pread(file.fileno(), 8, at))[0] & ((1 << 56) - 512) for at in (l1, counts))
        os.pwrite(file.fileno(), bytes(2), block + table // (64 * KIB) * 2)  # the L2 table is counted as free
    broker.attach("d", leaf)
    with Guest(uri(place, "d")) as guest:
        guest.write(b"g" * 512, 2 * MIB)
        check_equal(guest.error(guest.flush), errno.EIO, "a flush that finds the damage")
    wait_until(lambda: _is_detached(broker), "the guest to have left")
    check_equal(broker.failed, [], "what failed")
    check(list(pathlib.Path(place.run_dir).glob("writes-*")), "the log was not kept")


def _is_detached(broker):
    try:
        broker.ask("detach", device="d")
    except Refused as refusal:
        check("is in use" in refusal.msg, f"refused: {refusal}")
        return False
    return True


# ---- the other end


def a_broker_that_comes_back_is_told_what_is_open(place):
    leaf, reference = simple_chain(place)
    broker, _ = start_imaged(place)
    broker.attach("d", leaf)
    broker.ask("open_job", device="d", job="j")
    worker = HandWorker(broker, "d")
    order = broker.ask("reserve", device="d", job="j", join=worker.join, offset=0, length=MIB)
    gone = broker.ask("reserve", device="d", job="j", join=worker.join, offset=2 * MIB, length=MIB)
    broker.ask("abort", lease=gone["lease"], stopped=False)
    broker.unbind()
    broker.bind()
    hello = broker.wait_hello(20)
    check_equal([device["device"] for device in hello["devices"]], ["d"], "devices")
    check_equal(hello["jobs"], [{"device": "d", "job": "j"}], "jobs")
    check_equal([(join["join"], join["worker"], join["confirmed"]) for join in hello["joins"]],
                [(worker.join, worker.name, True)], "joins")
    check_equal([(lease["lease"], lease["join"], lease["offset"], lease["length"]) for lease in hello["leases"]],
                [(order["lease"], worker.join, order["offset"], order["length"])], "leases")
    zeroes = worker.copy(order)
    broker.ask("commit", lease=order["lease"], zeroes=zeroes)
    opened = broker.ask("open_job", device="d", job="j")
    broker.fill(worker, "d", "j")
    worker.leave()
    broker.ask("finish", device="d", job="j", backing_name=opened["backing-name"], backing_format="")
    broker.ask("detach", device="d")
    check_done(leaf, reference)


def an_answer_that_nobody_hears_keeps_no_reservation(place):
    leaf, reference = simple_chain(place)
    broker, imaged = start_imaged(place)
    broker.attach("d", leaf)
    broker.ask("open_job", device="d", job="d")
    worker = HandWorker(broker, "d")
    imaged.signal(signal.SIGSTOP)
    broker.post("reserve", device="d", job="d", join=worker.join, offset=0, length=MIB)
    broker.send("imaged_unknown")
    time.sleep(0.1)
    imaged.signal(signal.SIGCONT)
    hello = broker.wait_hello()
    broker.ask("close_job", device="d", job="d")
    worker.leave()
    imaged.stop()
    check_done(leaf, reference, "base.raw")
    check_equal(len(hello["jobs"]), 1, "jobs")


def a_stopped_imaged_closes_its_files_cleanly(place):
    leaf, reference = simple_chain(place)
    broker, imaged = start_imaged(place)
    broker.attach("d", leaf)
    broker.ask("open_job", device="d", job="d")
    worker = HandWorker(broker, "d")
    broker.copy_range(worker, "d", "d", 0, MIB)
    order = broker.ask("reserve", device="d", job="d", join=worker.join, offset=2 * MIB, length=MIB)
    imaged.signal(signal.SIGTERM)
    wait_until(lambda: broker.goodbye or broker.turn(0.05), "goodbye")
    worker.scribble(order)
    worker.die()  # the broker told it to leave
    check_equal(imaged.wait(10), 0, "exit status")
    check_done(leaf, reference, "base.raw")


def a_worker_that_stays_does_not_hold_up_the_end(place):
    leaf, reference = simple_chain(place)
    broker, imaged = start_imaged(place)
    broker.attach("d", leaf)
    broker.ask("open_job", device="d", job="d")
    worker = HandWorker(broker, "d")
    order = broker.ask("reserve", device="d", job="d", join=worker.join, offset=2 * MIB, length=MIB)
    check(imaged.stop() < 8, "it took too long")
    worker.scribble(order)
    images.check_no_error(leaf)
    worker.die()
    broker, imaged = broker, place.start("sluice-imaged", "--root", place.path)
    broker.wait_hello()
    broker.attach("d", leaf)
    imaged.stop()
    check_done(leaf, reference, "base.raw")


run(globals())
