#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""docs/messages.md is true: each example is sent to a real system as it stands there, and what comes back has the shape that the
example and the tables show; so have all events."""

import json
import os
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

import images
from harness import Skip, check, check_equal, run, wait_until
from images import KIB, MIB
from message_document import Document, same_shape
from sluice_wire import Client, pack, unpack
from system import System

DOCUMENT = Document()
PLACE = "/images/leaf.qcow2"  # in the examples
SLOWLY = 64 * KIB

WITHOUT_DEVICE = ["query-devices", "query-block-jobs", "query-workers", "query-events", "query-status", "query-version",
                  "query-commands"]
WITH_DEVICE = ["query-devices", "query-stream-plan", "query-allocation", "block_stream"]
WITH_JOB = ["query-block-jobs", "query-devices", "query-workers", "query-status", "query-events", "block_job_set_speed",
            "block_job_cancel"]


def _leaf(place):
    images.create_raw(place.path / "base.raw", 16 * MIB, [(0, images.pattern(8 * MIB, 1))])
    leaf = images.create(place.path / "leaf.qcow2", 16 * MIB, "base.raw")
    images.io(leaf, "write -P 1 12M 64k")
    return leaf


def _leaf_on_rubbish(place):
    """Its base is compressed, and the compressed bytes were overwritten."""
    plain = images.create_raw(place.path / "plain.raw", MIB, [(0, b"sluice " * 100000)])
    base = place.path / "base.qcow2"
    images.tool("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", plain, base)
    with open(base, "r+b") as file:
        file.seek(40)
        file.seek(struct.unpack(">Q", file.read(8))[0])  # the L1 table, the L2 table, the first cluster
        file.seek(struct.unpack(">Q", file.read(8))[0] & 0xfffffffffffe00)
        file.seek(struct.unpack(">Q", file.read(8))[0] & ((1 << 54) - 1))
        file.write(b"\xff" * 64)
    return images.create(place.path / "leaf.qcow2", MIB, "base.qcow2")


def _example(name):
    section = DOCUMENT.sections[name]
    check_equal((len(section.requests), len(section.answers)), (1, 1), f"examples of {name}")
    return section.requests[0], section.answers[0]


def _say(system, request):
    """The request as it stands there, but for the file's place; the whole reply."""
    request = json.loads(json.dumps(request).replace(PLACE, str(system.place.path / "leaf.qcow2")))
    client = system.client
    client.socket.send_multipart([b"", pack(request)])
    frames = client.receive_frames(20.0)
    check(frames is not None, f"no reply to {request}")
    return unpack(frames[-1])


def _run(system, name):
    """The example of one command; what it returned."""
    request, shown = _example(name)
    reply = _say(system, request)
    check("return" in reply, f"{request}: {reply}")
    DOCUMENT.check_section(reply, DOCUMENT.sections["reply_envelope"], f"reply to {name}")
    DOCUMENT.check(reply["return"], DOCUMENT.sections[name].returns, name)
    same_shape(shown, reply, name)
    return reply["return"]


def _attach_as_shown(system):
    probe = images.create(system.place.path / "probe.qcow2", MIB)
    system.attach(probe, device="probe")  # waits for imaged
    system.detach("probe")
    _run(system, "device-attach")


def examples_are_true_to_the_tables(place):
    for section in DOCUMENT.commands:
        request, shown = _example(section.name)
        DOCUMENT.check_section(request, DOCUMENT.sections["request_envelope"], f"request {section.name}")
        DOCUMENT.check_section(shown, DOCUMENT.sections["reply_envelope"], f"reply {section.name}")
        DOCUMENT.check(shown["return"], section.returns, section.name)
        arguments = request.get("arguments", {})
        check(set(arguments) <= set(section.arguments), f"{section.name}: arguments {sorted(arguments)}")
        for name, (optional, kind) in section.arguments.items():
            check(optional or name in arguments, f"{section.name} lacks {name}")
            if name in arguments:
                DOCUMENT.check(arguments[name], kind, f"{section.name}.{name}")
    for section in DOCUMENT.events:
        DOCUMENT.check_event(section.topic, section.answers[0])


def examples_in_the_build_are_those_of_the_document(place):
    path = os.path.join(os.environ.get("SLUICE_BUILD", ""), "schemas/examples.json")
    if not os.path.exists(path):
        raise Skip("SLUICE_BUILD does not name a build folder")
    with open(path, encoding="utf-8") as file:
        built = [(one["request"], one["return"]) for one in json.load(file)]
    check_equal(built, [(section.requests[0], section.answers[0]["return"]) for section in DOCUMENT.commands], "examples")


def every_command_of_the_list_is_in_the_document_and_the_other_way_round(place):
    place.start("sluice-broker")
    listed = {one["name"] for one in Client(place).call("query-commands")}
    written = {section.name for section in DOCUMENT.commands}
    check(written <= listed, f"not in query-commands: {sorted(written - listed)}")
    check({name.replace("_", "-") for name in listed} == {name.replace("_", "-") for name in written},
          f"not in the document: {sorted(listed - written)}")


def examples_are_answered_as_shown(place):
    _leaf(place)
    system = System(place, workers=0)
    feed = system.events()
    done = set()
    for name in WITHOUT_DEVICE:
        _run(system, name)
        done.add(name)
    system.start_worker()
    feed.until("WORKER_JOINED", 20)
    check_equal([one["name"] for one in _run(system, "query-workers")], ["worker-1"], "workers")
    _attach_as_shown(system)
    for name in WITH_DEVICE:
        _run(system, name)
    system.wait_end("virtio0")
    _run(system, "device-detach")
    done.update(WITH_DEVICE, ["device-attach", "device-detach"])

    os.unlink(place.path / "leaf.qcow2")
    _leaf(place)
    _attach_as_shown(system)
    system.stream("virtio0", speed=SLOWLY)
    feed.until("BLOCK_JOB_PROGRESS", 20)
    returned = {}
    for name in WITH_JOB:
        if name == "block_job_set_speed":  # without a worker the job can't end at that speed before it is cancelled
            check_equal([one["name"] for one in returned["query-workers"]], ["worker-1"], "workers of the job")
            system.workers.pop().stop()
        returned[name] = _run(system, name)
    done.update(returned)
    system.wait_end("virtio0", before=1)
    _run(system, "device-detach")
    check_equal(done, {section.name for section in DOCUMENT.commands}, "commands that were tried")

    heard = set()
    feed.until("BLOCK_JOB_CANCELLED", 20)  # of the last job; what went before lies there, heartbeats too
    feed.until("DEVICE_OFFLINE", 20)
    feed.until("BROKER_HEARTBEAT", 20)
    for topic, event in feed.seen:
        DOCUMENT.check_event(topic, event)
        heard.add(event["event"])
    for event in system.client.all_events():
        DOCUMENT.check_event(None, event)
    check({"BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED", "JOB_STATUS_CHANGE", "DEVICE_ONLINE", "DEVICE_OFFLINE",
           "WORKER_JOINED", "BLOCK_JOB_PROGRESS", "BROKER_HEARTBEAT"} <= heard, f"heard only {sorted(heard)}")
    system.stop_all()


def events_of_trouble_have_the_shape_of_the_document(place):
    """A job that stalls, one that fails, a worker and an imaged that go."""
    leaf = _leaf_on_rubbish(place)
    system = System(place, workers=0, broker_options=("--peer-timeout", "1"))
    feed = system.events()
    system.attach(leaf)
    system.stream_once_online()
    feed.until("BLOCK_JOB_STALLED", 20, reason="no-worker")
    worker = system.start_worker()
    failed = feed.until("BLOCK_JOB_COMPLETED", 20)
    check("error" in failed["data"], "a job that copied rubbish ended well")
    worker.kill()
    feed.until("WORKER_LOST", 20)
    system.imaged.kill()
    feed.until("DEVICE_OFFLINE", 20)
    for topic, event in feed.seen:
        DOCUMENT.check_event(topic, event)
    heard = {event["event"] for _, event in feed.seen}
    check({"BLOCK_JOB_ERROR", "BLOCK_JOB_STALLED", "WORKER_LOST", "DEVICE_OFFLINE"} <= heard, f"heard only {sorted(heard)}")
    error = next(event["data"] for _, event in feed.seen if event["event"] == "BLOCK_JOB_ERROR")
    check_equal((error["operation"], error["action"], error["file"]), ("read", "report", str(place.path / "base.qcow2")),
                "BLOCK_JOB_ERROR")
    check(system.client.call("query-block-jobs") == [], "jobs")


def errors_are_of_the_classes_that_the_document_lists(place):
    _leaf(place)
    system = System(place, workers=0)
    for section in DOCUMENT.commands:
        arguments = _example(section.name)[0].get("arguments", {})
        tries = [{**arguments, "nonsense": 1}]
        tries += [{name: value for name, value in arguments.items() if name != left} for left in arguments
                  if not section.arguments[left][0]]
        tries += [{**arguments, name: [1]} for name in section.arguments]
        if "device" in arguments and section.name != "device-attach":
            tries.append(arguments)  # there is no such device
        for one in tries:
            reply = _say(system, {"execute": section.name, "arguments": one})
            if "return" in reply and one == arguments:
                continue  # a query about all
            check("error" in reply, f"{section.name} {one}: {reply}")
            DOCUMENT.check_section(reply["error"], DOCUMENT.sections["reply_error"], f"error of {section.name}")
            check(reply["error"]["class"] in section.errors | {"GenericError"},
                  f"{section.name} {one}: {reply['error']} is not among {sorted(section.errors)}")
            check(reply["error"]["class"] in DOCUMENT.sections["error_class"].values, f"{reply['error']}")
    reply = _say(system, {"execute": "no-such-command"})
    check_equal(reply["error"]["class"], "CommandNotFound", "class of an unknown command")
    system.stop_all()


run(globals())
