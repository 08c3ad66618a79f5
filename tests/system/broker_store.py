# SPDX-License-Identifier: Apache-2.0
"""What the broker remembers: the log of events and its numbers over restarts and kills, its locks, a full disk."""

import ctypes
import os
import pathlib
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))

from harness import LIBC, Skip, check, check_equal, run, wait_until
from sluice_wire import Client, Events, Peer

CLONE_NEWNS = 0x20000
MS_REC_PRIVATE = 0x4000 | 0x40000


def say_hello(peer, name, incarnation=1):
    peer.send("worker_hello", protocol=1, name=name, incarnation=incarnation, host="here", boot_id="b", realm="r",
              pid=1, slots=2, joins=[], leases=[])


def cause_events(place, names):
    """Each worker's hello is a durable event, WORKER_JOINED; its goodbye is WORKER_LOST."""
    for name in names:
        peer = Peer(place, place.endpoint("workers"))
        say_hello(peer, name)
        peer.expect("worker_welcome")
        peer.send("worker_goodbye")


def lost_count(client):
    return len(client.call("query-events", after=0, event="WORKER_LOST", limit=10000)["events"])


def check_numbers(events, first=1):
    """From `first` up by one; `prev` is the one before of the same name."""
    last_of = {}
    for number, event in enumerate(events, first):
        check_equal(event["seq"], number, "seq")
        if first == 1:
            check_equal(event["prev"], last_of.get(event["event"], 0), f"prev of {number}")
        last_of[event["event"]] = number


def events_are_numbered_without_gaps_and_the_log_is_what_was_published(place):
    place.start("sluice-broker")
    client, feed = Client(place), Events(place)
    feed.until("BROKER_HEARTBEAT")

    cause_events(place, [f"w{i}" for i in range(10)])
    wait_until(lambda: lost_count(client) == 10, "ten lost workers")

    log = client.all_events()
    check_numbers(log)
    feed.until("BROKER_HEARTBEAT", last=len(log))
    published = [event for _, event in feed.seen if "seq" in event]
    check_equal(published, log, "published")
    for topic, event in feed.seen:
        check_equal(topic, f"{event['event']}//", "topic")
        check_equal("seq" in event, event["event"] != "BROKER_HEARTBEAT", f"a number on {topic}")


def the_log_is_told_in_pages_and_through_filters(place):
    place.start("sluice-broker")
    client = Client(place)
    cause_events(place, [f"w{i}" for i in range(12)])
    wait_until(lambda: lost_count(client) == 12, "twelve lost workers")
    log = client.all_events()

    page = client.call("query-events", after=3, limit=4)
    check_equal(page["events"], log[3:7], "page")
    check_equal((page["first"], page["last"], page["more"]), (1, len(log), True), "first, last, more")
    joined = client.call("query-events", after=0, event="WORKER_JOINED", limit=12)
    check_equal(joined["events"], [event for event in log if event["event"] == "WORKER_JOINED"], "filtered")
    check_equal(joined["more"], False, "more of those")
    check_equal(client.call("query-events", after=0, device="vda")["events"], [], "events of a device")
    check_equal(client.call("query-events", after=2**63 - 1)["events"], [], "events after the end of time")


def wrong_arguments_of_query_events_are_named(place):
    place.start("sluice-broker")
    client = Client(place)

    for arguments, name in (({}, "after"), ({"after": -1}, "after"), ({"after": "1"}, "after"),
                            ({"after": 0, "limit": 0}, "limit"), ({"after": 0, "limit": 10001}, "limit"),
                            ({"after": 0, "event": 5}, "event"), ({"after": 0, "foo": 1}, "foo")):
        error = client.fails("query-events", **arguments)
        check_equal(error.error_class, "GenericError", f"class for {arguments}")
        check(name in error.desc, error.desc)
        check_equal(error.data.get("argument"), name, f"data for {arguments}")


def a_restart_keeps_the_epoch_and_the_events_and_goes_on_counting(place):
    broker = place.start("sluice-broker")
    client = Client(place)
    cause_events(place, ["a", "b"])
    wait_until(lambda: lost_count(client) == 2, "two lost workers")
    log, epoch = client.all_events(), client.call("query-status")["epoch"]

    for end in ("stop", "kill"):
        getattr(broker, end)()
        broker = place.start("sluice-broker")
        client = Client(place)
        status = client.ask("query-status")
        check_equal(status["return"]["epoch"], epoch, "epoch")
        check_equal(client.all_events()[:len(log)], log, "log")
        check_equal(client.call("query-events", after=0)["epoch"], epoch, "epoch of the log")
        cause_events(place, ["c"])
        wait_until(lambda c=client, n=len(log): len(c.all_events()) >= n + 2, "two more events")
        log = client.all_events()
        check_numbers(log)


def what_was_published_survives_a_kill_at_any_moment(place):
    """It is killed after a number of events and a moment more; the numbers differ and have the same sum in any order."""
    broker = place.start("sluice-broker")
    known = {}
    numbers = place.random.sample(range(0, 16, 2), 8)

    for round_number, wanted in enumerate(numbers):
        feed = Events(place)
        feed.until("BROKER_HEARTBEAT")
        peers = [Peer(place, place.endpoint("workers")) for _ in range(6)]
        for number, peer in enumerate(peers):
            for again in range(8):
                say_hello(peer, f"w{number}", incarnation=1 + again + 100 * round_number)
        begun = len(feed.seen)
        while sum("seq" in event for _, event in feed.seen[begun:]) < wanted:
            check(feed.next(), f"no {wanted} events were published in round {round_number}")
        time.sleep(place.random.random() * 0.003)
        check(broker.kill(), "the kill hit nobody")
        while feed.next(0.05):
            pass
        known.update({event["seq"]: event for _, event in feed.seen if "seq" in event})
        broker = place.start("sluice-broker")

        log = Client(place).all_events()
        check_numbers(log)
        for seq, event in known.items():
            check(seq <= len(log), f"event {seq} was published and is not in the log")
            check_equal(log[seq - 1], event, f"event {seq}")
    check(len(known) > 30, f"only {len(known)} events seen")


def old_events_are_pruned(place):
    place.start("sluice-broker", "--event-log", "20")
    client = Client(place)

    cause_events(place, [f"w{i}" for i in range(40)])
    wait_until(lambda: client.call("query-events", after=0)["last"] >= 80, "80 events")
    wait_until(lambda: client.call("query-events", after=0)["first"] > 40, "pruning")

    page = client.call("query-events", after=0)
    check(page["last"] - page["first"] < 40, f"{page['first']} to {page['last']} with 20 to be kept")
    check(page["last"] - page["first"] >= 19, f"{page['first']} to {page['last']} with 20 to be kept")
    check_numbers(page["events"], page["first"])


def check_second_is_refused(place, first, **environment):
    second = place.start("sluice-broker", ready=False, environment=environment)
    check_equal(second.wait(), 1, "exit status of the second")
    check_equal(second.err_text().count("\n"), 1, "lines on stderr")
    check("another broker" in second.err_text(), second.err_text())
    first.check_alive()
    check_equal(Client(place).call("query-version")["contract"], 1, "contract")


def a_second_broker_on_the_state_directory_is_refused(place):
    check_second_is_refused(place, place.start("sluice-broker"), SLUICE_RUN_DIR=place.path / "other")


def a_second_broker_on_the_run_directory_is_refused(place):
    check_second_is_refused(place, place.start("sluice-broker"), SLUICE_STATE_DIR=place.path / "other")


def the_next_broker_may_come_at_once_after_a_kill(place):
    for _ in range(5):
        broker = place.start("sluice-broker")
        check_equal(Client(place).call("query-version")["contract"], 1, "contract")
        broker.kill()


def one_folder_may_be_both_run_and_state_directory(place):
    broker = place.start("sluice-broker", "--state", place.run_dir)
    check_equal(Client(place).call("query-version")["contract"], 1, "contract")
    broker.stop()


def sigterm_and_sigint_end_it_within_a_second_with_status_0(place):
    place.keep_state_in_memory()
    for number in (signal.SIGTERM, signal.SIGINT):
        broker = place.start("sluice-broker")
        idle = [Client(place) for _ in range(5)]
        idle[0].call("query-version")
        begun = time.monotonic()
        broker.signal(number)
        check_equal(broker.wait(), 0, "exit status")
        check(time.monotonic() - begun < 1, f"{time.monotonic() - begun} s")
        check_equal(broker.err_text().count(" error "), 0, "errors in the log")


def what_was_answered_before_sigterm_is_there_after_it(place):
    broker = place.start("sluice-broker")
    peers = [Peer(place, place.endpoint("workers")) for _ in range(20)]
    for number, peer in enumerate(peers):
        say_hello(peer, f"w{number}")
    feed = Events(place)
    feed.next(2)
    for number, peer in enumerate(peers):
        peer.send("worker_goodbye")
    feed.next(2)
    broker.stop()
    while feed.next(0.1):
        pass

    place.start("sluice-broker")
    log = Client(place).all_events()

    check_numbers(log)
    for _, event in feed.seen:
        if "seq" in event:
            check_equal(log[event["seq"] - 1], event, f"event {event['seq']}")


def a_damaged_store_is_refused_with_one_line(place):
    place.state_dir.mkdir()
    (place.state_dir / "data.mdb").write_bytes(b"rubbish" * 4000)

    broker = place.start("sluice-broker", ready=False)

    check_equal(broker.wait(), 1, "exit status")
    check_equal(broker.err_text().count("\n"), 1, "lines on stderr")
    check(str(place.state_dir) in broker.err_text(), broker.err_text())


def mount_small_disk(place, size):
    """A tmpfs on the state directory that only this test and its children see."""
    place.state_dir.mkdir()
    if LIBC.unshare(CLONE_NEWNS) or LIBC.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC_PRIVATE), None):
        raise Skip("not allowed to make a mount namespace")
    if LIBC.mount(b"small", str(place.state_dir).encode(), b"tmpfs", ctypes.c_ulong(0), f"size={size}".encode()):
        raise Skip("not allowed to mount a tmpfs")
    place.finally_do(lambda: LIBC.umount2(str(place.state_dir).encode(), 2))


def fill(path):
    with open(path, "wb", buffering=0) as file:
        for block in (1 << 16, 4096, 1):
            try:
                while True:
                    file.write(bytes(block))
            except OSError:
                pass


def a_full_disk_stops_nothing_that_is_not_new_and_space_brings_all_back(place):
    mount_small_disk(place, "16m")
    broker = place.start("sluice-broker")
    client = Client(place)
    filler = place.state_dir / "filler"
    fill(filler)

    number = 0
    while "reserve" not in broker.err_text():
        number += 1
        check(number < 2000, "the disk never got full")
        cause_events(place, [f"w{number}"])
    error = client.fails("device-attach", device="vda", file="/x")
    check("full" in error.desc, error.desc)
    check_equal(client.call("query-status")["devices"], 0, "devices")
    before = client.call("query-events", after=0, limit=1)["last"]
    cause_events(place, ["late"])
    wait_until(lambda: client.call("query-events", after=0, limit=1)["last"] >= before + 2, "events while full")

    os.unlink(filler)
    wait_until(lambda: "has its reserve again" in broker.err_text(), "the reserve", 20)
    error = client.fails("device-attach", device="vda", file="/x")
    check("full" not in error.desc, error.desc)
    broker.stop()


def a_broker_starts_on_a_full_disk(place):
    mount_small_disk(place, "16m")
    broker = place.start("sluice-broker")
    cause_events(place, ["a", "b"])
    broker.kill()
    fill(place.state_dir / "filler")

    place.start("sluice-broker")

    client = Client(place)
    check_numbers(client.all_events())
    check_equal(client.call("query-version")["contract"], 1, "contract")


run(globals())
