# SPDX-License-Identifier: Apache-2.0
"""The commands that need neither an imaged nor a worker, and what wrong requests get."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))

import zmq
from harness import check, check_equal, run
from sluice_wire import Client, Socket, pack, unpack

COMMANDS = {"block_stream", "query-stream-plan", "query-block-jobs", "block_job_cancel", "block_job_set_speed",
            "device-attach", "device-detach", "query-devices", "query-allocation", "query-workers", "query-events",
            "query-status", "query-version", "query-commands"}


def the_version_is_told(place):
    place.start("sluice-broker")

    version = Client(place).call("query-version")

    check_equal(version["contract"], 1, "contract")
    check_equal(set(version["sluice"]), {"major", "minor", "micro"}, "numbers")
    check(isinstance(version["package"], str), "package")


def all_commands_are_listed_once_and_none_is_unknown(place):
    place.start("sluice-broker")
    client = Client(place)

    names = [command["name"] for command in client.call("query-commands")]

    check_equal(len(names), len(set(names)), "names")
    check(COMMANDS <= set(names), f"missing: {COMMANDS - set(names)}")
    for name in names:
        answer = client.ask(name)
        check(answer.get("error", {}).get("class") != "CommandNotFound", f"{name}: {answer}")


def a_new_broker_is_empty(place):
    place.start("sluice-broker")
    client = Client(place)

    status = client.call("query-status")

    check_equal({name: status[name] for name in ("devices", "devices-online", "workers", "queued-bytes", "speed")},
                {"devices": 0, "devices-online": 0, "workers": 0, "queued-bytes": 0, "speed": 0}, "status")
    check(status["epoch"] > 0, "epoch")
    for command in ("query-devices", "query-block-jobs", "query-workers"):
        check_equal(client.call(command), [], command)


def the_budget_of_the_command_line_is_told_and_kept(place):
    broker = place.start("sluice-broker", "--speed", "100M")
    check_equal(Client(place).call("query-status")["speed"], 100 << 20, "speed")
    broker.stop()
    broker = place.start("sluice-broker")
    check_equal(Client(place).call("query-status")["speed"], 100 << 20, "speed after a restart")
    broker.stop()
    place.start("sluice-broker", "--speed", "0")
    check_equal(Client(place).call("query-status")["speed"], 0, "speed set anew")


def words_of_a_command_may_be_joined_by_either_sign(place):
    place.start("sluice-broker")
    client = Client(place)

    for name in ("query-version", "query_version", "query-block-jobs", "query_block_jobs", "query-block_jobs"):
        check("return" in client.ask(name), name)
    for name in ("block_stream", "block-stream"):
        check_equal(client.fails(name, device="nix").error_class, "DeviceNotFound", name)


def unknown_commands_are_not_found(place):
    place.start("sluice-broker")
    client = Client(place)

    for name in ("", "nothing", "query-version ", "Query-Version", "queryversion", "block_stream\0", "x" * 200):
        check_equal(client.fails(name).error_class, "CommandNotFound" if name.isprintable() else "GenericError",
                    repr(name))


def wrong_arguments_are_named(place):
    place.start("sluice-broker")
    client = Client(place)
    too_long = "f" * 1024

    for command, arguments, name in (
            ("block_stream", {}, "device"),
            ("block_stream", {"device": 5}, "device"),
            ("block_stream", {"device": "-a"}, "device"),
            ("block_stream", {"device": "a" * 65}, "device"),
            ("block_stream", {"device": "a", "speed": -1}, "speed"),
            ("block_stream", {"device": "a", "speed": 2**63}, "speed"),
            ("block_stream", {"device": "a", "speed": "fast"}, "speed"),
            ("block_stream", {"device": "a", "speed": 1.5}, "speed"),
            ("block_stream", {"device": "a", "base": too_long}, "base"),
            ("block_stream", {"device": "a", "wrong": 1}, "wrong"),
            ("block_stream", {"device": "a", "token": "t" * 129}, "token"),
            ("query-block-jobs", {"device": None}, "device"),
            ("block_job_set_speed", {"device": "a"}, "speed"),
            ("block_job_cancel", {"device": "a", "force": 1}, "force"),
            ("device-attach", {"device": "a"}, "file"),
            ("query-allocation", {"device": "a", "offset": -5}, "offset"),
            ("query-version", {"verbose": True}, "verbose")):
        error = client.fails(command, **arguments)
        check_equal(error.error_class, "GenericError", f"class of {command} {arguments}")
        check(name in error.desc, f"{command} {arguments}: {error.desc}")
        check_equal(error.data.get("argument"), name, f"data of {command} {arguments}")


def requests_that_are_no_requests_are_told_so(place):
    place.start("sluice-broker")
    raw = Socket(place, zmq.DEALER, place.endpoint("commands"))

    for request in ({}, {"id": 7}, {"execute": 5, "id": 7}, {"execute": "query-version", "arguments": [], "id": 7},
                    {"execute": "query-version", "arguments": None, "id": 7},
                    {"execute": "query-version", "more": 1, "id": 7}, [], "query-version", None, 5):
        raw.socket.send_multipart([b"", pack(request)])
        answer = unpack(raw.receive_frames(10)[-1])
        check_equal(answer["error"]["class"], "GenericError", f"answer to {request}")
        check(answer["error"]["desc"], "no words")
        check("seq" in answer, "no seq")
        if isinstance(request, dict) and "id" in request:
            check_equal(answer.get("id"), 7, f"id of {request}")


def ids_of_any_kind_come_back(place):
    place.start("sluice-broker")
    raw = Socket(place, zmq.DEALER, place.endpoint("commands"))

    for number in (0, -1, 2**64 - 1, 1.5, None, True, "x", b"\xff\x00", [1, [2]], {"a": {"b": None}}):
        raw.socket.send_multipart([b"", pack({"execute": "query-version", "id": number})])
        check_equal(unpack(raw.receive_frames(10)[-1])["id"], number, "id")
    raw.socket.send_multipart([b"", pack({"execute": "query-version"})])
    check("id" not in unpack(raw.receive_frames(10)[-1]), "an id where none was sent")


def devices_and_jobs_that_are_not_there_get_their_classes(place):
    place.start("sluice-broker")
    client = Client(place)

    for command, arguments, wanted in (
            ("block_stream", {}, "DeviceNotFound"),
            ("query-stream-plan", {}, "DeviceNotFound"),
            ("query-allocation", {}, "DeviceNotFound"),
            ("device-detach", {}, "DeviceNotFound"),
            ("query-devices", {}, "DeviceNotFound"),
            ("query-block-jobs", {}, "DeviceNotFound"),
            ("block_job_cancel", {}, "DeviceNotActive"),
            ("block_job_set_speed", {"speed": 1}, "DeviceNotActive")):
        error = client.fails(command, device="nix", **arguments)
        check_equal(error.error_class, wanted, f"class of {command}")
        check_equal(error.data.get("device"), "nix", f"data of {command}")
        if wanted == "DeviceNotFound":
            check_equal(error.desc, "Device 'nix' not found", "desc")


def an_attach_without_an_imaged_says_so(place):
    place.start("sluice-broker")

    error = Client(place).fails("device-attach", device="vda", file="/images/leaf.qcow2")

    check(error.error_class in ("DeviceOffline", "GenericError"), error.error_class)


run(globals())
