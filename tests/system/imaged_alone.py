#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""imaged by itself: the test plays the broker and the workers, QEMU's tools judge the images."""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "support"))

import images
from harness import check, check_equal, run, wait_until
from images import KIB, MIB
from images_broker import HandWorker, ImagesBroker, check_done, simple_chain, start_imaged
from random_chain import RandomChain


def a_whole_stream_leaves_an_image_of_its_own(place):
    leaf, reference = simple_chain(place)
    broker, imaged = start_imaged(place)
    state = broker.attach("d", leaf)
    check_equal([layer["node-name"] for layer in state["chain"]], ["d", "d#1"], "node names")
    opened, finished = broker.stream("d")
    check_equal((opened["size"], opened["cluster-size"], opened["backing-name"]), (4 * MIB, 64 * KIB, ""), "job")
    check_equal(len(finished["state"]["chain"]), 1, "files left")
    os.unlink(place.path / "base.raw")
    broker.ask("detach", device="d")
    check_done(leaf, reference)
    imaged.stop()
    wait_until(lambda: broker.goodbye or broker.turn(0.05), "goodbye")  # a heartbeat may come before it


# ---- streams


def random_chains_stream_to_what_they_read_as(place):
    broker, imaged = start_imaged(place)
    for number in range(int(os.environ.get("SLUICE_CHAINS", "25"))):
        folder = place.path / f"chain{number}"
        folder.mkdir()
        chain = RandomChain(place.random, folder)
        base = place.random.choice(chain.bases())
        slice_bytes = place.random.choice((MIB, 64 * KIB, 256 * KIB)) * 2
        try:
            _stream_chain(broker, chain, folder, base, max(slice_bytes, 2 * MIB))
        except Exception:
            print(f"# chain {number}, base {base}:\n# " + "\n# ".join(chain.story))
            raise
        check(imaged.is_alive(), "imaged lives")


def _stream_chain(broker, chain, folder, base, slice_bytes):
    reference = images.flatten(chain.leaf, folder / "reference.raw")
    others = {file: images.digest(file) for file in chain.files[:-1]}
    broker.attach("d", chain.leaf)
    broker.stream("d", "job-1", slice_bytes, base=base)
    for state in ("kept", "alone"):
        runs = broker.ask("allocation", device="d", offset=0, length=1 << 62)["runs"]
        check_equal(sum(run["length"] for run in runs), chain.size, f"bytes told ({state})")
    broker.ask("detach", device="d")
    check_equal({file: images.digest(file) for file in others}, others, "the files below")
    check_done(chain.leaf, reference, base)
    broker.attach("d", chain.leaf)  # the rest, if any
    broker.stream("d", "job-2", slice_bytes)
    broker.ask("detach", device="d")
    check_done(chain.leaf, reference)


def a_short_layer_goes_on_hiding_what_lies_below(place):
    images.create_raw(place.path / "base.raw", 2 * MIB, [(0, b"\1" * (2 * MIB))])
    images.create(place.path / "mid.qcow2", MIB + 512, "base.raw")
    broker, _ = start_imaged(place)
    for compat in ("1.1", "0.10"):
        leaf = images.create(place.path / f"leaf-{compat}.qcow2", 2 * MIB, "mid.qcow2", compat=compat)
        reference = images.flatten(leaf, place.path / "reference.raw")
        broker.attach("d", leaf)
        broker.ask("open_job", device="d", job="d", base="base.raw")
        runs, present = broker.work_map("d", "d")
        mixed = {"offset": MIB, "length": 64 * KIB, "work": "copy"}  # its first 512 bytes are base's
        rest = {"offset": MIB + 64 * KIB, "length": MIB - 64 * KIB, "work": "zero"}
        if compat == "1.1":
            check_equal((runs, present), ([mixed, rest], 0), "map")
        else:
            check_equal(runs, [{"offset": MIB, "length": MIB, "work": "copy"}], "map of a version 2 leaf")
        broker.stream("d", base="base.raw")
        broker.ask("detach", device="d")
        check_done(leaf, reference, "base.raw")


def zeroes_that_nothing_shows_through_stay_unallocated(place):
    images.create_raw(place.path / "base.raw", MIB, [(0, bytes(512 * KIB) + b"\1" * 512 * KIB)])
    leaf = images.create(place.path / "leaf.qcow2", None, "base.raw")
    broker, _ = start_imaged(place)
    broker.attach("d", leaf)
    broker.ask("open_job", device="d", job="d")
    worker = HandWorker(broker, "d")
    total = broker.fill(worker, "d", "d")
    check_equal((total["copied"], total["zeroes"]), (512 * KIB, 512 * KIB), "bytes")
    check_equal(broker.work_map("d", "d"), ([], 512 * KIB), "map when all is done")
    runs = broker.ask("allocation", device="d", offset=0, length=MIB)["runs"]
    check_equal([(run["state"], run.get("layer")) for run in runs], [("backing", 1), ("leaf", None)], "allocation")
    check_equal(broker.ask("finish", device="d", job="d", backing_name="", backing_format="")["type"], "finished", "end")
    runs = broker.ask("allocation", device="d", offset=0, length=MIB)["runs"]
    check_equal([run["state"] for run in runs], ["hole", "leaf"], "allocation")


def a_job_without_work_is_done_at_once(place):
    leaf, reference = simple_chain(place)
    flat = images.create(place.path / "flat.qcow2", MIB)
    broker, _ = start_imaged(place)
    broker.attach("flat", flat)
    opened, _ = broker.stream("flat")
    check_equal(opened["nothing-to-do"], True, "a leaf without backing file")
    broker.attach("d", leaf)
    opened, _ = broker.stream("d", base="base.raw")
    check_equal((opened["nothing-to-do"], opened["backing-name"], opened["base"]), (True, "base.raw", "base.raw"), "job")
    opened, _ = broker.stream("d", base="base.raw", backing_file=str(place.path / "base.raw"))
    check_equal(opened["backing-name"], str(place.path / "base.raw"), "the name that was asked for")
    broker.ask("detach", device="d")
    check_done(leaf, reference, str(place.path / "base.raw"))


def finishing_waits_for_what_is_missing_and_may_be_asked_again(place):
    leaf, reference = simple_chain(place)
    broker, _ = start_imaged(place)
    broker.attach("d", leaf)
    broker.ask("open_job", device="d", job="d")
    end = {"device": "d", "job": "d", "backing_name": "", "backing_format": ""}
    check_equal(broker.ask("finish", **end)["offset"], 0, "what is missing first")
    worker = HandWorker(broker, "d")
    broker.copy_range(worker, "d", "d", 0, MIB)
    check_equal(broker.ask("finish", **end)["offset"], 2 * MIB, "what is missing then")
    broker.fill(worker, "d", "d")
    check_equal(broker.ask("finish", **end)["type"], "finished", "end")
    check_equal(broker.ask("finish", **end)["type"], "finished", "again")
    broker.refused("finish", "DeviceNotActive", device="d", job="d", backing_name="x", backing_format="raw")
    worker.leave()
    broker.ask("detach", device="d")
    check_done(leaf, reference)


# ---- what is refused


def what_cannot_be_streamed_is_refused_by_class(place):
    leaf, _ = simple_chain(place)
    raw = images.create_raw(place.path / "leaf.raw", MIB)
    broker, _ = start_imaged(place)
    broker.attach("raw", raw, format="raw")
    broker.attach("guessed", place.path / "base.raw")
    broker.refused("open_job", "NotSupported", "Operation is not supported", device="raw", job="raw")
    broker.refused("plan", "NotSupported", "Operation is not supported", device="guessed")
    broker.ask("detach", device="guessed")
    broker.attach("d", leaf, read_only=True)
    broker.refused("open_job", "NotSupported", device="d", job="d")
    broker.refused("prepare_join", "NotSupported", device="d", worker="w", incarnation=1)
    broker.ask("detach", device="d")
    broker.attach("d", leaf)
    broker.refused("open_job", "BaseNotFound", "nowhere.raw", device="d", job="d", base="nowhere.raw")
    broker.refused("open_job", "BaseNotFound", "nowhere.raw", device="d", job="d", bottom="nowhere.raw")
    broker.refused("open_job", "BaseNotFound", "the leaf itself", device="d", job="d", base="leaf.qcow2")
    broker.refused("open_job", "GenericError", device="d", job="d", base="base.raw", bottom="base.raw")
    broker.refused("open_job", "GenericError", "backing-file", device="d", job="d", backing_file="base.raw")
    broker.refused("open_job", "DeviceNotFound", "Device 'x' not found", device="x", job="x")
    broker.refused("map", "DeviceNotActive", device="d", job="d", offset=0)
    broker.ask("open_job", device="d", job="d")
    broker.ask("open_job", device="d", job="d")
    broker.refused("open_job", "DeviceInUse", "Device 'd' is in use", device="d", job="other")
    broker.refused("detach", "DeviceInUse", "Device 'd' is in use", device="d")
    for offset in (512, 8 * MIB, (1 << 63) - 65536):
        broker.refused("map", "GenericError", device="d", job="d", offset=offset)
    worker = HandWorker(broker, "d")
    for offset, length in ((512, 65536), (0, 512), (0, 0), (4 * MIB, 65536), (0, 8 * MIB), (65536, (1 << 63) - 65536)):
        broker.refused("reserve", "GenericError", device="d", job="d", join=worker.join, offset=offset, length=length)
        broker.refused("zero", "GenericError", device="d", job="d", offset=offset, length=length)
    broker.refused("commit", "GenericError", "not open", lease=77, zeroes=[])
    broker.ask("abort", lease=77, stopped=True)
    broker.ask("end_join", join=77, stopped=True)
    broker.ask("close_job", device="x", job="x")
    broker.ask("detach", device="x")
    lease = broker.ask("reserve", device="d", job="d", join=worker.join, offset=0, length=65536)["lease"]
    for offset, length in ((0, 512), (512, 65536), (0, 131072), ((1 << 63) - 65536, 65536), (0, (1 << 63) - 65536)):
        broker.refused("commit", "GenericError", "zeroes", lease=lease, zeroes=[{"offset": offset, "length": length}])
    broker.ask("commit", lease=lease, zeroes=[{"offset": 0, "length": 65536}])


def a_file_is_attached_under_one_name_only(place):
    leaf, _ = simple_chain(place)
    link = place.path / "link.qcow2"
    link.symlink_to(leaf.name)
    other = images.create(place.path / "other.qcow2", MIB)
    broker, _ = start_imaged(place)
    broker.attach("d", leaf)
    broker.attach("d", leaf)
    broker.attach("d", link)
    broker.refused("attach", "DeviceInUse", "attached as 'd'", device="e", file=str(link), copy_on_read=False, read_only=False)
    broker.refused("attach", "DeviceInUse", "another file", device="d", file=str(other), copy_on_read=False, read_only=False)
    broker.refused("attach", "DeviceInUse", "Device 'e' is in use", device="e", file=str(place.path / "base.raw"),
                   format="raw", copy_on_read=False, read_only=False)
    images.tool("qemu-io", "-c", "write 0 512", "-f", "qcow2", leaf, status=1)
    broker.refused("attach", "GenericError", "outside every --root", device="e", file="/etc/passwd", copy_on_read=False,
                   read_only=False)


def a_device_given_at_start_is_in_the_hello(place):
    leaf, _ = simple_chain(place)
    broker, imaged = start_imaged(place, "--device", f"virtio0={leaf},format=qcow2", "--name", "alpha", "--realm", "shelf")
    check_equal([device["device"] for device in broker.hello["devices"]], ["virtio0"], "devices")
    check_equal((broker.hello["name"], broker.hello["realm"]), ("alpha", "shelf"), "names")
    imaged.stop()
    images.check_clean(leaf)
    for option, status in (("x=/nowhere", 1), ("x", 2), ("=y", 2), ("1x=y", 2)):
        place.call("sluice-imaged", "--root", place.path, "--device", option, status=status)
    place.call("sluice-imaged", status=2)
    place.call("sluice-imaged", "--root", place.path, "--broker", "tcp://192.0.2.1:5", status=2)


def a_refused_imaged_ends_with_one_line(place):
    broker = ImagesBroker(place)
    broker.welcomes = False
    imaged = place.start("sluice-imaged", "--root", place.path)
    broker.wait_hello()
    broker.send("imaged_refused", msg="another imaged named 'alpha' lives")
    check_equal(imaged.wait(), 1, "exit status")
    check("another imaged named 'alpha' lives" in imaged.err_text(), "the reason is said")


def snapshots_that_need_the_base_forbid_to_drop_it(place):
    leaf, reference = simple_chain(place)
    images.tool("qemu-img", "snapshot", "-c", "early", leaf)
    broker, _ = start_imaged(place)
    broker.attach("d", leaf)
    broker.refused("open_job", "NotSupported", "Operation is not supported", "'early'", device="d", job="d")
    broker.refused("plan", "NotSupported", "'early'", device="d")
    broker.stream("d", base="base.raw")  # drops nothing
    broker.ask("detach", device="d")
    images.tool("qemu-img", "snapshot", "-d", "early", leaf)
    # Where the snapshot holds all that the base has, it needs it no more.
    images.io(leaf, "write -P 7 0 320k", "write -P 8 2M 1088k")
    images.tool("qemu-img", "snapshot", "-c", "late", leaf)
    images.io(leaf, "write -P 9 64k 64k")
    images.flatten(leaf, reference)
    broker.attach("d", leaf)
    broker.stream("d")
    broker.ask("detach", device="d")
    check_done(leaf, reference)
    images.tool("qemu-img", "snapshot", "-a", "late", leaf)
    images.io(leaf, "read -P 7 0 320k", "read -P 8 2M 1088k")


def the_name_in_the_header_finds_the_kept_file_or_is_refused(place):
    elsewhere = place.path / "elsewhere"
    elsewhere.mkdir()
    images.create_raw(elsewhere / "base.raw", MIB, [(0, b"\1" * MIB)])
    images.create(elsewhere / "mid.qcow2", None, "base.raw")
    images.io(elsewhere / "mid.qcow2", "write -P 2 0 64k")
    leaf = images.create(place.path / "leaf.qcow2", MIB, "elsewhere/mid.qcow2")
    images.create_raw(place.path / "base.raw", MIB, [(0, b"\3" * MIB)])  # mid's word for its base means this one here
    (place.path / "good.raw").symlink_to("elsewhere/base.raw")
    reference = images.flatten(leaf, place.path / "reference.raw")
    broker, _ = start_imaged(place)
    broker.attach("d", leaf)
    for name in ("base.raw", "nowhere.raw", "elsewhere/mid.qcow2", "x" * 1023, "nbd:unix:/x", "json:{}", "a:b.raw", "",
                 "/etc/passwd"):
        broker.refused("open_job", "GenericError" if ":" not in name or name == "json:{}" else "NotSupported",
                       device="d", job="d", base="base.raw", backing_file=name)
    opened = broker.ask("open_job", device="d", job="d", base="base.raw")
    check_equal(opened["backing-name"], str(elsewhere / "base.raw"), "a name that is true here")
    broker.ask("close_job", device="d", job="d")
    opened, _ = broker.stream("d", bottom="elsewhere/mid.qcow2", backing_file="good.raw")
    check_equal((opened["backing-name"], opened["backing-format"], opened["base"]), ("good.raw", "raw", "base.raw"), "job")
    broker.ask("detach", device="d")
    check_done(leaf, reference, "good.raw")


# ---- questions


def a_plan_tells_what_the_job_then_does(place):
    images.create_raw(place.path / "base.raw", 8 * MIB, [(0, b"\1" * MIB), (4 * MIB, b"\2" * (512 * KIB))])
    images.create(place.path / "mid.qcow2", 6 * MIB, "base.raw")
    images.io(place.path / "mid.qcow2", "write -P 3 512k 1M", "write -z 4M 256k")
    leaf = images.create(place.path / "leaf.qcow2", 8 * MIB, "mid.qcow2")
    images.io(leaf, "write -P 4 0 128k", "write -z 7M 64k")
    broker, _ = start_imaged(place)
    broker.attach("d", leaf)
    plan = broker.ask("plan", device="d")
    check_equal([(layer["file"], layer["copy"]) for layer in plan["layers"]],
                [("mid.qcow2", MIB), ("base.raw", 384 * KIB + 256 * KIB)], "layers")
    check_equal(plan["copy"], MIB + 640 * KIB, "copy")
    check_equal((plan["zeroes"], plan["present"], plan["complete"]), (0, 192 * KIB, True), "the rest")
    check_equal(plan["copy"] + plan["holes"] + plan["present"], 8 * MIB, "sum")
    check_equal([layer["file"] for layer in plan["chain"]], [str(leaf)], "what would be left")
    partial = broker.ask("plan", device="d", base="base.raw")
    check_equal((partial["copy"], partial["zeroes"]), (MIB, 256 * KIB), "with a base")
    check_equal([layer["file"] for layer in partial["chain"]], [str(leaf), "base.raw"], "what would be left")
    before = os.path.getsize(leaf)
    broker.stream("d")
    broker.ask("detach", device="d")
    growth = os.path.getsize(leaf) - before
    check(plan["copy"] <= growth <= plan["leaf-growth"], f"{growth} within {plan['copy']} to {plan['leaf-growth']}")


def allocation_is_told_in_merged_runs(place):
    images.create_raw(place.path / "base.raw", 4 * MIB, [(0, b"\1" * MIB)])
    images.create(place.path / "mid.qcow2", 4 * MIB, "base.raw")
    images.io(place.path / "mid.qcow2", "write -P 3 2M 64k", "write -z 512k 64k")
    leaf = images.create(place.path / "leaf.qcow2", 4 * MIB, "mid.qcow2")
    images.io(leaf, "write -P 4 64k 128k", "write -z 3M 64k")
    broker, _ = start_imaged(place)
    broker.attach("d", leaf)
    found = [(run["offset"] // KIB, run["length"] // KIB, run["state"], run.get("layer"))
             for run in broker.ask("allocation", device="d", offset=0, length=4 * MIB)["runs"]]
    check_equal(found, [(0, 64, "backing", 2), (64, 128, "leaf", None), (192, 320, "backing", 2), (512, 64, "hole", None),
                        (576, 448, "backing", 2), (1024, 1024, "hole", None), (2048, 64, "backing", 1),
                        (2112, 960, "hole", None), (3072, 64, "zero", None), (3136, 960, "hole", None)], "runs")
    page = broker.ask("allocation", device="d", offset=100 * KIB, length=50 * KIB)
    check_equal(page["runs"], [{"offset": 100 * KIB, "length": 50 * KIB, "state": "leaf"}], "a part")
    check_equal(broker.ask("allocation", device="d", offset=9 * MIB, length=1)["runs"], [], "past the end")


def huge_empty_disks_are_mapped_at_once_in_little_memory(place):
    images.create(place.path / "base.qcow2", 64 << 40)
    images.io(place.path / "base.qcow2", "write 1T 64k", f"write {(64 << 40) - 512} 512")
    images.create(place.path / "mid.qcow2", None, "base.qcow2")
    leaf = images.create(place.path / "leaf.qcow2", None, "mid.qcow2")
    broker, imaged = start_imaged(place)
    broker.attach("d", leaf)
    before = imaged.processor_seconds()
    broker.ask("open_job", device="d", job="d")
    runs, present = broker.work_map("d", "d")
    seconds = imaged.processor_seconds() - before
    check_equal(runs, [{"offset": 1 << 40, "length": 65536, "work": "copy"},
                       {"offset": (64 << 40) - 65536, "length": 65536, "work": "copy"}], "map")
    print(f"# 64 TiB mapped in {seconds:.2f} s of a processor, {imaged.memory_kib() // 1024} MiB of memory")
    check(seconds < 1, f"mapping took {seconds:.2f} s of a processor")
    check(imaged.memory_kib() < 64 * 1024, f"{imaged.memory_kib()} KiB of memory")
    broker.stream("d")


def a_large_cluster_of_many_small_pieces_is_copied(place):
    base = images.create(place.path / "base.qcow2", 4 * MIB, cluster_size=512)
    commands = [word for offset in range(0, 2 * MIB, 1536)
                for word in ("-c", f"write -P {place.random.randrange(1, 256)} {offset} 512")]
    images.tool("qemu-io", "-t", "unsafe", "-f", "qcow2", *commands, base)  # 1,366 pieces and as many holes
    leaf = images.create(place.path / "leaf.qcow2", None, "base.qcow2", cluster_size=2 * MIB)
    reference = images.flatten(leaf, place.path / "reference.raw")
    broker, _ = start_imaged(place)
    broker.attach("d", leaf)
    broker.stream("d", slice_bytes=2 * MIB)
    broker.ask("detach", device="d")
    check_done(leaf, reference)


def devices_do_not_wait_for_one_another(place):
    broker, _ = start_imaged(place)
    leaves = []
    images.create_raw(place.path / "base.raw", 4 * MIB, [(0, images.pattern(MIB, 3))])
    for number in range(8):
        leaf = images.create(place.path / f"leaf{number}.qcow2", None, "base.raw")
        broker.attach(f"d{number}", leaf)
        broker.ask("open_job", device=f"d{number}", job="j")
        leaves.append((f"d{number}", leaf, HandWorker(broker, f"d{number}")))
    numbers = [broker.post("reserve", device=device, job="j", join=worker.join, offset=offset, length=128 * KIB)
               for offset in range(0, MIB, 128 * KIB) for device, _, worker in leaves]
    orders = [broker.answer(number) for number in numbers]
    zeroes = [leaves[index % 8][2].copy(order) for index, order in enumerate(orders)]
    for number in [broker.post("commit", lease=order["lease"], zeroes=zero) for order, zero in zip(orders, zeroes)]:
        broker.answer(number)
    for device, leaf, worker in leaves:
        broker.ask("finish", device=device, job="j", backing_name="", backing_format="")
        worker.leave()
        broker.ask("detach", device=device)
        images.check_clean(leaf)
        images.compare(leaf, place.path / "base.raw")


def bytes_that_are_no_message_are_ignored(place):
    broker, imaged = start_imaged(place)
    for body in (b"", b"\xc1", b"\x80", place.random.randbytes(500), b"\x81\xa4type\xa4none"):
        broker.socket.send_multipart([broker.peer, body])
    broker.send("attach", request=1)
    broker.send("reserve", request=1, device="x" * 500, job="j", join=1, offset=0, length=1)
    broker.refused("plan", "DeviceNotFound", device="d")
    check(imaged.is_alive(), "imaged lives")


run(globals())
