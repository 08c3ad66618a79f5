# SPDX-License-Identifier: Apache-2.0
"""What may come to the broker's sockets: rubbish, bombs, floods, odd envelopes, idle connections.  It lives on and serves."""

import os
import pathlib
import resource
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))

import zmq
from harness import check, check_equal, own_tcp_address, run, wait_until
from sluice_wire import Client, Peer, Socket, pack, unpack

BOMBS = [
    bytes.fromhex("dd10000000"),
    bytes.fromhex("ddffffffff"),
    bytes.fromhex("df80000000"),
    bytes.fromhex("ddffffff00") * 31,
    bytes.fromhex("c6ffffffff"),
    bytes.fromhex("dbffffffff61"),
    b"\x91" * 65000,
    b"\x81\xa1a" * 20000,
    b"\xdc\xff\xff" + b"\x90" * 65535,
    b"\xdd\x00\x0f\xff\xf0" + b"\x90" * 1048560,
    b"\xc9\x00\x00\x00\x01\x01a",
    b"",
    b"\xc1",
    b"\x82\xa1a\x01\xa1a\x02",
]


def check_serving(client, broker):
    broker.check_alive()
    check_equal(client.call("query-version")["contract"], 1, "contract")


def answer_to(raw, frame):
    """The reply to one request as bytes."""
    raw.socket.send_multipart([b"", frame])
    frames = raw.receive_frames(10)
    check(frames is not None, f"no reply to {frame[:40]!r}")
    return unpack(frames[-1])


def every_bomb_gets_a_generic_error(place):
    broker = place.start("sluice-broker")
    raw = Socket(place, zmq.DEALER, place.endpoint("commands"))
    before = broker.memory_kib()

    for bomb in BOMBS:
        answer = answer_to(raw, bomb)
        check_equal(answer.get("error", {}).get("class"), "GenericError", f"answer to {bomb[:20]!r}")

    check(broker.memory_kib() - before < 32 * 1024, f"bombs took {broker.memory_kib() - before} KiB")
    check_serving(Client(place), broker)


def bombs_at_workers_and_images_change_nothing(place):
    broker = place.start("sluice-broker")
    before = broker.memory_kib()

    for name in ("workers", "images"):
        peer = Peer(place, place.endpoint(name))
        for bomb in BOMBS:
            peer.socket.send(bomb)
            wait_until(lambda peer=peer: peer.receive(1), f"an answer of {name} to {bomb[:20]!r}")

    check(broker.memory_kib() - before < 32 * 1024, f"bombs took {broker.memory_kib() - before} KiB")
    check_serving(Client(place), broker)


def random_value(random, depth=0):
    kind = random.randrange(9 if depth < 5 else 6)
    if kind < 2:
        return random.choice([0, 1, -1, 127, 2**31, 2**63, 2**64 - 1, -(2**63)])
    if kind == 2:
        return random.choice([None, True, False, 1.5])
    if kind == 3:
        return random.choice(["", "virtio0", "worker_hello", "a" * random.randrange(300), "\0"])
    if kind < 6:
        return random.randbytes(random.randrange(40))
    if kind == 6:
        return [random_value(random, depth + 1) for _ in range(random.randrange(5))]
    return {random.choice(["type", "execute", "arguments", "id", "lease", "name", "join", "request", 3, None]):
            random_value(random, depth + 1) for _ in range(random.randrange(6))}


def random_frame(random, examples):
    """Random bytes, random values, or a good message that was damaged."""
    kind = random.randrange(4)
    if kind == 0:
        return random.randbytes(random.randrange(200))
    if kind == 1:
        return pack(random_value(random))
    message = dict(random.choice(examples))
    if kind == 2 and message:
        message[random.choice(list(message))] = random_value(random)
        return pack(message)
    frame = bytearray(pack(message))
    for _ in range(random.randrange(1, 4)):
        frame[random.randrange(len(frame))] = random.randrange(256)
    return bytes(frame[:random.randrange(1, len(frame) + 1)]) if random.randrange(3) == 0 else bytes(frame)


HELLO = {"type": "worker_hello", "protocol": 1, "name": "w", "incarnation": 3, "host": "h", "boot-id": "b",
         "realm": "r", "pid": 1, "slots": 2, "joins": [1], "leases": [9]}
IMAGED_HELLO = {"type": "imaged_hello", "protocol": 1, "name": "i", "incarnation": 3, "host": "h", "boot-id": "b",
                "realm": "r", "pid": 1, "devices": [], "jobs": [], "joins": [], "leases": []}
EXAMPLES = {
    "workers": [HELLO, {"type": "worker_heartbeat"}, {"type": "worker_goodbye"},
                {"type": "joined", "join": 3, "boot-id": "b", "device-number": 1, "inode": 2},
                {"type": "left", "join": 3}, {"type": "copy_stopped", "lease": 9},
                {"type": "copied", "lease": 9, "bytes": 1, "zeroes": [{"offset": 0, "length": 4}],
                 "microseconds": 1}],
    "images": [IMAGED_HELLO, {"type": "imaged_heartbeat"}, {"type": "imaged_goodbye"},
               {"type": "finished", "request": 1}, {"type": "join_ended", "request": 2},
               {"type": "committed", "request": 3, "copied": 1, "zeroes": 0, "superseded": 0},
               {"type": "image_error", "request": 4, "class": "NoSpace", "msg": "x"}],
    "commands": [{"execute": "query-status", "id": 1}, {"execute": "block_stream", "arguments": {"device": "a"}},
                 {"execute": "device-attach", "arguments": {"device": "a", "file": "/x"}},
                 {"execute": "query-events", "arguments": {"after": 0, "limit": 3}, "id": "x"},
                 {"execute": "block_job_cancel", "arguments": {"device": "a", "force": True}}],
}


def thousands_of_damaged_messages_on_every_router_do_no_harm(place):
    place.keep_state_in_memory()
    broker = place.start("sluice-broker")
    client = Client(place)
    sockets = {name: [Socket(place, zmq.DEALER, place.endpoint(name)) for _ in range(4)] for name in EXAMPLES}

    for number in range(12000):
        name = place.random.choice(list(EXAMPLES))
        place.random.choice(sockets[name]).socket.send(random_frame(place.random, EXAMPLES[name]))
        if number % 1000 == 0:
            check_serving(client, broker)

    check_serving(client, broker)
    check(broker.memory_kib() < 200 * 1024, f"{broker.memory_kib()} KiB")
    check(broker.stop() < 3.0, "it took more than three seconds to stop")


def every_request_gets_exactly_one_reply_whatever_it_is(place):
    place.start("sluice-broker")
    raw = Socket(place, zmq.DEALER, place.endpoint("commands"))
    count = 3000

    for number in range(count):
        raw.socket.send_multipart([b"%d" % number, b"", random_frame(place.random, EXAMPLES["commands"])])

    answered = set()
    while len(answered) < count:
        frames = raw.receive_frames(10)
        check(frames is not None, f"{count - len(answered)} requests were not answered")
        check(frames[0] not in answered, f"{frames[0]} was answered twice")
        check(set(unpack(frames[-1])) & {"return", "error"}, "neither return nor error")
        answered.add(frames[0])
    check_equal(raw.receive_frames(0.2), None, "a reply too many")


def envelopes_come_back_as_they_came(place):
    place.start("sluice-broker")
    raw = Socket(place, zmq.DEALER, place.endpoint("commands"))
    request = pack({"execute": "query-version", "id": {"any": ["thing", 1.5, None]}})

    for envelope in ([], [b""], [b"a", b""], [bytes(256)], [b"%d" % i for i in range(8)], [b""] * 8):
        raw.socket.send_multipart([*envelope, request])
        frames = raw.receive_frames(10)
        check(frames is not None, f"no reply with {len(envelope)} frames before it")
        check_equal(frames[:-1], envelope, "envelope")
        check_equal(unpack(frames[-1])["id"], {"any": ["thing", 1.5, None]}, "id")


def a_plain_req_socket_is_served(place):
    place.start("sluice-broker")
    req = Socket(place, zmq.REQ, place.endpoint("commands"))

    for number in range(3):
        req.socket.send(pack({"execute": "query_version", "id": number}))
        check_equal(unpack(req.receive_frames(10)[0])["id"], number, "id")


def too_many_or_too_long_frames_are_dropped_and_the_next_request_is_served(place):
    broker = place.start("sluice-broker")
    raw = Socket(place, zmq.DEALER, place.endpoint("commands"))
    request = pack({"execute": "query-version", "id": 1})

    raw.socket.send_multipart([b"x"] * 9 + [request])
    raw.socket.send_multipart([b"x"] * 2000 + [request])
    raw.socket.send_multipart([bytes(257), request])
    raw.socket.send_multipart([b"", pack({"execute": "query-version", "id": 2})])

    check_equal(unpack(raw.receive_frames(10)[-1])["id"], 2, "the first reply's id")
    check_equal(raw.receive_frames(0.3), None, "another reply")
    wait_until(lambda: "dropped" in broker.err_text(), "a line in the log")


def a_frame_of_more_than_a_mebibyte_costs_only_its_own_connection(place):
    broker = place.start("sluice-broker")
    client = Client(place)
    for name in ("commands", "workers", "images"):
        raw = Socket(place, zmq.DEALER, place.endpoint(name))
        raw.socket.send_multipart([b"", bytes((1 << 20) + 1)])
        check_equal(raw.receive_frames(0.5), None, "an answer")
    check_serving(client, broker)


def a_request_over_64_kib_is_answered(place):
    place.start("sluice-broker")
    raw = Socket(place, zmq.DEALER, place.endpoint("commands"))

    answer = answer_to(raw, pack({"execute": "query-version", "id": "x" * 70000}))

    check_equal(answer["error"]["class"], "GenericError", "class")
    check("65536" in answer["error"]["desc"] or "64" in answer["error"]["desc"], answer["error"]["desc"])


def idle_connections_do_not_end_the_broker(place):
    broker = place.start("sluice-broker", limits={resource.RLIMIT_NOFILE: 256})
    client = Client(place)
    check_serving(client, broker)
    idle = []
    place.finally_do(lambda: [one.close() for one in idle])

    for number in range(600):
        one = socket.socket(socket.AF_UNIX)
        one.setblocking(False)
        try:
            one.connect(str(place.run_dir / ("commands", "workers", "images", "events")[number % 4]))
        except OSError:
            pass
        idle.append(one)
        if number % 50 == 0:
            check_serving(client, broker)

    check_serving(client, broker)
    time.sleep(0.3)  # the guard counts every 100 ms
    check_serving(client, broker)
    for one in idle:
        one.close()
    late = Client(place)
    wait_until(lambda: late.ask("query-version", 20.0), "a new client after the idle ones went", 30)


def a_client_that_never_reads_does_not_stop_the_others(place):
    broker = place.start("sluice-broker")
    deaf = Socket(place, zmq.DEALER, place.endpoint("commands"), queue=10)
    client = Client(place)

    for number in range(50000):
        check(deaf.socket.poll(5000, zmq.POLLOUT), f"the broker takes no more requests after {number}")
        deaf.socket.send_multipart([b"", pack({"execute": "query-version", "id": number})])
        if number % 10000 == 0:
            check_serving(client, broker)

    check_serving(client, broker)
    check(broker.memory_kib() < 250 * 1024, f"{broker.memory_kib()} KiB")


def sockets_are_for_owner_and_group_only(place):
    place.start("sluice-broker")

    check_equal(os.stat(place.run_dir).st_mode & 0o777, 0o750, "mode of the run directory")
    for name in ("commands", "events", "workers", "images"):
        check_equal(os.stat(place.run_dir / name).st_mode & 0o777, 0o660, f"mode of {name}")


def tcp_is_served_on_the_loopback_and_refused_elsewhere(place):
    endpoint = f"tcp://{own_tcp_address()}"
    place.start("sluice-broker", "--commands", endpoint)
    check_equal(Client(place, endpoint).call("query-version")["contract"], 1, "contract")

    refused = place.start("sluice-broker", "--commands", "tcp://0.0.0.0:1", ready=False)

    check_equal(refused.wait(), 2, "exit status")
    check_equal(refused.err_text().count("\n"), 1, "lines on stderr")
    check("--insecure" in refused.err_text(), refused.err_text())


run(globals())
