#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What users of block_stream expect, scenario by scenario, on real images with QEMU's tools as judges.

Every one that copies is judged the same way: the leaf reads as before (with its chain and alone), qemu-img check is clean, the header names
what is kept, there was exactly one end, dropped layers are untouched, and all of it still holds after every process was killed right
after the end."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

import images
from harness import check, check_equal, run, wait_until
from images import KIB, MIB
from system import Judge, System


def _chain(place, size=MIB, mid_data=True):
    """base.raw (a pattern in the first 512 bytes) <- mid (a pattern at 512 KiB) <- leaf, empty."""
    base = images.create_raw(place.path / "base.raw", size, [(0, b"\x01" * 512)])
    mid = images.create(place.path / "mid.qcow2", size, "base.raw")
    if mid_data:
        images.io(mid, "write -P 1 512k 512")
    leaf = images.create(place.path / "leaf.qcow2", size, "mid.qcow2")
    return base, mid, leaf


def _big(place, size=64 * MIB, data=32 * MIB, seed=7):
    base = images.create_raw(place.path / "base.raw", size, [(0, images.pattern(data, seed))])
    leaf = images.create(place.path / "leaf.qcow2", size, "base.raw")
    return base, leaf


def _stream_and_judge(place, leaf, layers, backing=None, **arguments):
    """The whole of it; returns the event's data."""
    judge = Judge(place, leaf, layers)
    system = System(place)
    system.attach(leaf)
    data = system.complete(**arguments)
    system.kill_all()
    judge.judge(backing)
    if backing is None:
        judge.alone(place)
    return data


def all_is_streamed_into_the_leaf(place):
    base, mid, leaf = _chain(place)
    data = _stream_and_judge(place, leaf, [base, mid])
    check_equal(data["end"], MIB, "end")
    present = images.own_map(leaf)
    check({0, 512 * KIB} <= present, f"the leaf lacks what base and mid held: {sorted(present)}")


def base_that_is_the_direct_backing_copies_nothing(place):
    base, mid, leaf = _chain(place)
    before = images.own_map(leaf)
    _stream_and_judge(place, leaf, [base, mid], "mid.qcow2", base="mid.qcow2")
    check_equal(images.own_map(leaf), before, "map of the leaf")


def with_a_base_only_the_layers_above_it_are_copied(place):
    base, mid, leaf = _chain(place)
    wanted = images.own_map(mid)
    _stream_and_judge(place, leaf, [base, mid], "base.raw", base="base.raw")
    check_equal(images.own_map(leaf), wanted, "map of the leaf")
    check_equal(images.info(leaf)["backing-filename-format"], "raw", "format of the backing file")


def bottom_names_the_last_file_that_is_copied(place):
    base, mid, leaf = _chain(place)
    _stream_and_judge(place, leaf, [base, mid], "base.raw", bottom="mid.qcow2")


def a_device_that_is_not_there_is_named_in_the_error(place):
    system = System(place, workers=0)
    error = system.client.fails("block_stream", device="nope")
    check_equal((error.error_class, error.desc), ("DeviceNotFound", "Device 'nope' not found"), "error")
    check_equal(system.client.call("query-block-jobs"), [], "jobs")


def a_read_only_leaf_is_refused(place):
    base, mid, leaf = _chain(place)
    judge = Judge(place, leaf, [base, mid])
    system = System(place, workers=1)
    system.attach(leaf, read_only=True)
    error = system.client.fails("block_stream", device="vda")
    check_equal(error.error_class, "NotSupported", "class")
    system.detach()
    judge.judge("mid.qcow2")


def a_raw_leaf_is_refused(place):
    raw = images.create_raw(place.path / "disk.raw", MIB, [(0, b"x" * 512)])
    system = System(place, workers=0)
    system.attach(raw)
    error = system.client.fails("block_stream", device="vda")
    check_equal((error.error_class, error.desc.startswith("Operation is not supported")), ("NotSupported", True), "error")


def a_wrong_base_is_refused_and_a_right_one_works_then(place):
    base, mid, leaf = _chain(place)
    other = images.create_raw(place.path / "other.raw", MIB)
    wanted = images.own_map(mid)
    judge = Judge(place, leaf, [base, mid])
    system = System(place)
    system.attach(leaf)
    texts = set()
    for name in ("missing.raw", str(other), str(leaf)):
        error = system.client.fails("block_stream", device="vda", base=name)
        check_equal(error.error_class, "BaseNotFound", f"class for base {name}")
        texts.add(error.desc)
    error = system.client.fails("block_stream", device="vda", base="base.raw", bottom="mid.qcow2")
    check_equal(error.error_class, "GenericError", "class for base with bottom")
    texts.add(error.desc)
    check_equal(len(texts), 4, "distinct texts")
    check_equal(system.client.call("query-block-jobs"), [], "jobs")
    system.complete(base=str(base))
    system.kill_all()
    judge.judge("base.raw")
    check_equal(images.own_map(leaf), wanted, "map of the leaf")


def a_base_smaller_than_the_leaf_ends_and_the_rest_is_zero(place):
    base = images.create_raw(place.path / "base.raw", MIB, [(0, images.pattern(MIB, 3))])
    leaf = images.create(place.path / "leaf.qcow2", 2 * MIB, "base.raw")
    data = _stream_and_judge(place, leaf, [base])
    check_equal(data["end"], 2 * MIB, "end")


def a_middle_layer_that_ends_early_still_hides_what_is_below(place):
    """Partial stream: past the end of mid the guest reads zeroes, and must go on to although base has data there."""
    base = images.create_raw(place.path / "base.raw", 2 * MIB, [(0, b"\x01" * (2 * MIB))])
    mid = images.create(place.path / "mid.qcow2", MIB, "base.raw")
    images.io(mid, "write -P 2 0 64k")
    leaf = images.create(place.path / "leaf.qcow2", 2 * MIB, "mid.qcow2")
    _stream_and_judge(place, leaf, [base, mid], "base.raw", base="base.raw")


def a_middle_layer_that_ends_inside_a_cluster_is_right_too(place):
    for number, version in enumerate(("1.1", "0.10")):
        base = images.create_raw(place.path / f"base{number}.raw", 2 * MIB, [(0, b"\x01" * (2 * MIB))])
        mid = images.create(place.path / f"mid{number}.qcow2", MIB + 512, base.name)
        images.io(mid, "write -P 2 960k 4k")
        leaf = images.create(place.path / f"leaf{number}.qcow2", 2 * MIB, mid.name, compat=version)
        judge = Judge(place, leaf, [base, mid])
        system = System(place)
        system.attach(leaf)
        system.complete(base=base.name)
        system.detach()
        system.stop_all()
        judge.judge(base.name)


def a_job_is_cancelled_once_and_leaves_a_valid_leaf(place):
    base, leaf = _big(place, size=8 * images.GIB)
    judge = Judge(place, leaf)
    system = System(place)
    system.attach(leaf)
    system.stream(speed=MIB)
    system.client.call("block_job_cancel", device="vda")
    event = system.wait_end()
    check_equal(event["event"], "BLOCK_JOB_CANCELLED", "end")
    check_equal(system.client.call("query-block-jobs"), [], "jobs")
    check_equal(system.client.fails("block_job_cancel", device="vda").error_class, "DeviceNotActive", "second cancel")
    system.complete()  # a new job goes on from there
    system.kill_all()
    judge.judge()


def the_speed_is_told_and_can_be_changed(place):
    base, leaf = _big(place, size=80 * MIB, data=80 * MIB)
    system = System(place)
    system.attach(leaf)
    system.stream(speed=64 * KIB)
    system.client.call("block_job_set_speed", device="vda", speed=8 * MIB)
    check_equal(system.job()["speed"], 8 * MIB, "speed")
    system.client.call("block_job_cancel", device="vda")
    system.wait_end()
    system.stream(speed=4 * MIB)
    check_equal(system.job()["speed"], 4 * MIB, "speed")
    system.client.call("block_job_cancel", device="vda")
    system.wait_end(before=1)


def a_negative_speed_is_refused_and_leaves_no_job(place):
    base, leaf = _big(place)
    system = System(place)
    system.attach(leaf)
    error = system.client.fails("block_stream", device="vda", speed=-1)
    check_equal(error.error_class, "GenericError", "class")
    check("speed" in error.desc, f"the argument is not named: {error.desc}")
    check_equal(system.client.call("query-block-jobs"), [], "jobs")
    system.stream(speed=64 * KIB)
    error = system.client.fails("block_job_set_speed", device="vda", speed=-1)
    check("speed" in error.desc, f"the argument is not named: {error.desc}")
    check_equal(system.job()["speed"], 64 * KIB, "speed")


def a_device_with_a_job_cannot_be_detached(place):
    base, leaf = _big(place)
    system = System(place)
    system.attach(leaf)
    system.stream(speed=64 * KIB)
    error = system.client.fails("device-detach", device="vda")
    check_equal(error.error_class, "DeviceInUse", "class")
    check(error.desc.startswith("Device 'vda' is in use"), error.desc)
    error = system.client.fails("block_stream", device="vda")
    check_equal(error.error_class, "DeviceInUse", "second job")
    system.client.call("block_job_cancel", device="vda")
    event = system.wait_end()
    check_equal(event["data"]["len"], 64 * MIB, "len")
    check(event["data"]["offset"] < event["data"]["len"], "offset is not less than len")
    system.detach()
    images.check_clean(leaf)


def a_base_named_relatively_is_found_by_its_absolute_path(place):
    base, mid, leaf = _chain(place)
    _stream_and_judge(place, leaf, [base, mid], "mid.qcow2", base=str(mid))


def a_broker_ended_in_the_middle_goes_on_with_the_job_when_it_is_started_again(place):
    base, leaf = _big(place, data=24 * MIB)
    judge = Judge(place, leaf, [base])
    system = System(place)
    system.attach(leaf)
    system.stream(speed=8 * MIB)
    wait_until(lambda: system.job()["copied"] > 0, "the first bytes")
    before = system.job()
    system.broker.stop(10.0)
    system.start_broker()
    after = system.job()
    check(after is not None, "the job is gone")
    for name in ("job-id", "device", "speed", "end"):
        check_equal(after[name], before[name], name)
    event = system.wait_end()
    check_equal(event["event"], "BLOCK_JOB_COMPLETED", "end")
    check_equal(len(system.terminal_events()), 1, "ends in the log")
    system.kill_all()
    judge.judge()


def job_ids_are_checked(place):
    base, leaf = _big(place)
    second = images.create(place.path / "second.qcow2", 64 * MIB, "base.raw")
    system = System(place)
    system.attach(leaf)
    system.attach(second, device="vdb")
    for bad in ("", "0id", "  ", "123", "_id", "-id", ".id", "#id", "x" * 65):
        error = system.client.fails("block_stream", device="vda", job_id=bad)
        check_equal(error.error_class, "GenericError", f"class for {bad!r}")
    check_equal(system.client.fails("block_stream", device="vda", job_id="vdb").error_class, "GenericError",
                "the name of another device")
    system.stream(job_id="id0", speed=64 * KIB)
    check_equal(system.client.fails("block_stream", device="vdb", job_id="id0").error_class, "GenericError", "duplicate")
    system.client.call("block_job_cancel", device="id0")
    system.wait_end("id0")
    system.stream("vdb", job_id="id0", speed=64 * KIB)
    system.client.call("block_job_cancel", device="vdb")
    system.wait_end("id0", before=1)


def a_file_system_in_the_image_is_the_same_after_the_base_is_gone(place):
    image = place.path / "fs.raw"
    folder = place.path / "files"
    folder.mkdir()
    for number in range(20):
        (folder / f"file{number}").write_bytes(images.pattern(100_000, number))
    images.tool("/usr/sbin/mke2fs", "-q", "-t", "ext4", "-d", folder, image, "16M")
    snapshot = images.create(place.path / "snapshot.qcow2", 16 * MIB, "fs.raw")
    images.io(snapshot, "write -P 7 15M 64k")
    leaf = images.create(place.path / "leaf.qcow2", 16 * MIB, "snapshot.qcow2")
    _stream_and_judge(place, leaf, [image, snapshot])
    image.unlink()
    snapshot.unlink()
    out = images.flatten(leaf, place.path / "out.raw")
    images.tool("/usr/sbin/e2fsck", "-fn", out)


def of_four_snapshots_the_first_stays(place):
    names = [images.create_raw(place.path / "base.raw", 4 * MIB, [(0, images.pattern(MIB, 1))])]
    for number in range(4):
        names.append(images.create(place.path / f"s{number}.qcow2", 4 * MIB, names[-1].name))
        images.io(names[-1], f"write -P {number + 2} {number * 512}k 300k")
    _stream_and_judge(place, names[-1], names[:-1], "s0.qcow2", base="s0.qcow2")


def a_flat_leaf_completes_at_once(place):
    leaf = images.create(place.path / "leaf.qcow2", 4 * MIB)
    images.io(leaf, "write -P 9 1M 1M")
    data = _stream_and_judge(place, leaf, [])
    check_equal(data["offset"], data["len"], "offset")


def a_backing_file_is_stored_exactly_as_given(place):
    for number, spelling in enumerate(("./base0.raw", "{folder}/base1.raw")):
        base = images.create_raw(place.path / f"base{number}.raw", MIB, [(0, b"\x01" * 512)])
        mid = images.create(place.path / f"mid{number}.qcow2", MIB, base.name)
        images.io(mid, "write -P 1 512k 512")
        leaf = images.create(place.path / f"leaf{number}.qcow2", MIB, mid.name)
        name = spelling.format(folder=place.path)
        judge = Judge(place, leaf, [base, mid])
        system = System(place)
        system.attach(leaf)
        other = images.create_raw(place.path / f"copy{number}.raw", MIB, [(0, b"\x01" * 512)])
        for bad in ("nothing.raw", str(other), "x" * 1024):
            error = system.client.fails("block_stream", device="vda", base=base.name, backing_file=bad)
            check_equal(error.error_class, "GenericError", f"class for backing-file {bad[:20]}")
        check_equal(system.client.fails("block_stream", device="vda", backing_file=name).error_class, "GenericError",
                    "backing-file without base")
        system.complete(base=base.name, backing_file=name)
        system.detach()
        system.stop_all()
        judge.judge(name)


def a_job_without_workers_stalls_and_goes_on_with_the_first(place):
    base, leaf = _big(place, data=MIB)
    judge = Judge(place, leaf, [base])
    system = System(place, workers=0)
    system.attach(leaf)
    system.stream()
    wait_until(lambda: (system.job() or {}).get("stalled") == "no-worker", "the stall")
    system.start_worker()
    system.wait_end()
    reasons = [event["data"]["reason"] for event in system.client.all_events(event="BLOCK_JOB_STALLED")]
    check_equal(reasons, ["no-worker", ""], "stalls")
    system.kill_all()
    judge.judge()


def the_statuses_come_in_their_order(place):
    base, leaf = _big(place, data=MIB)
    system = System(place)
    system.attach(leaf)
    system.complete()
    seen = [event["data"].get("status", event["event"]) for event in system.client.all_events(device="vda")
            if event["event"] in ("JOB_STATUS_CHANGE", "BLOCK_JOB_COMPLETED")]
    check_equal(seen, ["created", "running", "waiting", "pending", "BLOCK_JOB_COMPLETED", "concluded", "null"], "order")
    log = system.client.all_events()
    check_equal([event["seq"] for event in log], list(range(1, len(log) + 1)), "seq")


run(globals())
