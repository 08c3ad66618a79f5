# SPDX-License-Identifier: Apache-2.0
"""Whole jobs through a real broker, with a hand-made imaged and hand-made workers: the order of messages, replies and
events, and what is left of a job when somebody goes away."""

import pathlib
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))

from harness import check, check_equal, quickest_rate, run, wait_until
from sluice_wire import Client, Events, FakeImaged, FakeWorker

MIB = 1 << 20


def begin(place, workers=1, size=8 * MIB, options=(), kind=FakeImaged):
    """A broker, an imaged with device vda, workers.  Returns the client and the imaged."""
    broker = place.start("sluice-broker", *options)
    client = Client(place)
    imaged = kind(place, size=size).begin()
    for number in range(workers):
        FakeWorker(place, f"worker-{number}", incarnation=100 + number).begin()
    attach(client)
    return broker, client, imaged


def attach(client, device="vda", file="/images/leaf.qcow2"):
    def attached():
        answer = client.ask("device-attach", device=device, file=file, imaged="alpha")
        return "return" in answer and answer["return"]
    return wait_until(attached, f"attaching {device}")


def events_of(client, device="vda"):
    return client.all_events(device=device)


def statuses(events):
    return [event["data"]["status"] for event in events if event["event"] == "JOB_STATUS_CHANGE"]


def ends(events):
    return [event for event in events if event["event"] in ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED")]


def wait_for_end(client, count=1, seconds=30):
    return wait_until(lambda: len(ends(events_of(client))) >= count and ends(events_of(client)), "the job's end", seconds)


def a_job_runs_from_created_to_null_with_one_completion(place):
    _, client, imaged = begin(place)
    feed = Events(place)
    feed.until("BROKER_HEARTBEAT")

    check_equal(client.call("block_stream", device="vda"), {}, "reply")
    done = feed.until("BLOCK_JOB_COMPLETED", device="vda")

    data = done["data"]
    check_equal((data["position"], data["end"], data["offset"], data["len"]), (8 * MIB,) * 4, "figures")
    check("error" not in data, data)
    wait_until(lambda: statuses(events_of(client))[-1:] == ["null"], "the last status")
    events = events_of(client)
    check_equal(statuses(events), ["created", "running", "waiting", "pending", "concluded", "null"], "statuses")
    check_equal(len(ends(events)), 1, "ends")
    names = [event["event"] for event in events]
    check(names.index("BLOCK_JOB_COMPLETED") == len(names) - 3, f"completed comes after pending: {names}")
    check_equal(client.call("query-block-jobs"), [], "jobs")
    check_equal(imaged.jobs, {}, "jobs open at the imaged")
    check_equal(imaged.leases, {}, "leases open at the imaged")


def the_finish_comes_only_after_all_is_committed(place):
    _, client, imaged = begin(place, workers=3)
    client.call("block_stream", device="vda")
    wait_for_end(client)

    kinds = [message["type"] for message in imaged.log]
    check("finish" in kinds, kinds)
    check("commit" not in kinds[kinds.index("finish"):], "a commit after finish")
    check_equal(kinds.count("finish"), 1, "finishes")


def a_worker_that_dies_costs_only_its_leases(place):
    _, client, imaged = begin(place, workers=0, options=("--lease", "2"))
    dying = FakeWorker(place, "dying", incarnation=7)
    dying.hold = True
    dying.begin()
    client.call("block_stream", device="vda")
    wait_until(lambda: dying.held, "a range in its hands")

    dying.stop()
    FakeWorker(place, "living", incarnation=8).begin()

    wait_for_end(client)
    aborted = [message for message in imaged.log if message["type"] == "abort"]
    check({order["lease"] for order in dying.held} <= {message["lease"] for message in aborted}, "leases not aborted")
    check(all(not message["stopped"] for message in aborted), "a dead worker was taken to have stopped")
    names = [event["event"] for event in client.all_events()]
    check("WORKER_LOST" in names, names)


def a_flush_that_failed_is_told_to_the_imaged_and_a_read_is_not(place):
    """What was lost with it may be a guest's, and the kernel tells each open file of it once."""
    _, client, imaged = begin(place, workers=0)
    worker = FakeWorker(place)
    worker.operation = None
    worker.report = lambda order: worker.tell(
        "copy_failed", lease=order["lease"], operation=worker.operation, file="/images/leaf.qcow2", offset=0, length=65536, errno="EIO",
        msg="Input/output error")
    worker.begin()
    for number, worker.operation in enumerate(("read", "flush"), start=1):
        del imaged.log[:]
        client.call("block_stream", device="vda")
        wait_for_end(client, number)
        aborted = wait_until(lambda: [message for message in imaged.log if message["type"] == "abort"], "the end of the lease")
        check(all(message["stopped"] for message in aborted[:1]), "a worker that reported was not taken to have stopped")
        check_equal(aborted[0].get("flush-failed", False), worker.operation == "flush", f"a failed {worker.operation} is told as a flush")


def a_lease_without_progress_is_revoked_and_its_late_report_ignored(place):
    _, client, imaged = begin(place, workers=0, options=("--lease", "1"))
    slow = FakeWorker(place, "slow", incarnation=7)
    slow.hold = True
    slow.begin()
    client.call("block_stream", device="vda")
    wait_until(lambda: slow.held, "a range in its hands")
    first = slow.held[0]
    wait_until(lambda: any(message["type"] == "copy_stop" and message["lease"] == first["lease"]
                           for message in slow.log), "a copy_stop")

    slow.report(first)
    slow.hold = False
    FakeWorker(place, "quick", incarnation=8).begin()

    wait_for_end(client)
    committed = [message["lease"] for message in imaged.log if message["type"] == "commit"]
    check(first["lease"] not in committed, "a late report was committed")


def no_lease_is_given_out_twice_and_none_beyond_credit(place):
    _, client, _ = begin(place, workers=0, size=64 * MIB)
    workers = [FakeWorker(place, f"w{number}", slots=2, incarnation=20 + number) for number in range(3)]
    for worker in workers:
        worker.hold = True
        worker.begin()
    client.call("block_stream", device="vda")
    wait_until(lambda: all(worker.held for worker in workers), "ranges in all hands")
    time.sleep(0.3)

    for worker in workers:
        check(len(worker.held) <= worker.slots + 1, f"{len(worker.held)} ranges in the hands of one worker")
    for worker in workers:
        worker.hold = False
        for order in list(worker.held):
            worker.report(order)
    wait_for_end(client)
    given = [message["lease"] for worker in workers for message in worker.log if message["type"] == "copy_order"]
    check_equal(len(given), len(set(given)), "leases")


def a_cancel_ends_the_job_and_closes_it_at_the_imaged(place):
    _, client, imaged = begin(place, workers=0)
    worker = FakeWorker(place, "holding", incarnation=7)
    worker.hold = True
    worker.begin()
    client.call("block_stream", device="vda")
    wait_until(lambda: worker.held, "a range in its hands")

    check_equal(client.call("block_job_cancel", device="vda"), {}, "reply")

    wait_until(lambda: ends(events_of(client)), "the end")
    wait_until(lambda: statuses(events_of(client))[-1] == "null", "the last status")
    check_equal([event["event"] for event in ends(events_of(client))], ["BLOCK_JOB_CANCELLED"], "ends")
    check_equal(statuses(events_of(client)), ["created", "running", "aborting", "concluded", "null"], "statuses")
    check_equal(client.call("query-block-jobs"), [], "jobs")
    check_equal(imaged.jobs, {}, "jobs open at the imaged")
    check_equal(client.fails("block_job_cancel", device="vda").error_class, "DeviceNotActive", "class")


class Senseless(FakeImaged):
    """Opens jobs of clusters that cannot be."""

    def on_open_job(self, message):
        self.answer(message, "job_opened", size=self.size, cluster_size=1000, nothing_to_do=False,
                    backing_name="", backing_format="")


def a_job_that_imaged_opens_senselessly_is_refused_and_leaves_the_device_free(place):
    place.start("sluice-broker")
    client = Client(place)
    Senseless(place, size=MIB).begin()
    attach(client)

    check_equal(client.fails("block_stream", device="vda").error_class, "DeviceOffline", "class")
    check(wait_until(lambda: "job" not in client.call("query-devices")[0], "no job"), "a job stands on the device")
    wait_until(lambda: client.call("query-devices")[0]["online"], "the device to be back")
    check_equal(client.fails("block_stream", device="vda").error_class, "DeviceOffline", "class the second time")


class NeverCloses(FakeImaged):
    def on_close_job(self, message):
        self.asked = message

    asked = None


def an_attach_that_waits_is_answered_when_its_imaged_goes_away(place):
    place.start("sluice-broker")
    client = Client(place)
    imaged = NeverCloses(place, size=MIB).begin()
    attach(client)
    client.call("block_stream", device="vda")
    imaged.tell("device_failed", device="vda", errno="EIO", msg="a flush failed")
    wait_until(lambda: imaged.asked, "the question to close the job")
    waiting = threading.Timer(0.5, imaged.stop)
    waiting.start()

    answer = client.ask("device-attach", device="vda", file="/images/leaf.qcow2", imaged="alpha")

    waiting.join()
    check_equal(answer.get("error", {}).get("class"), "DeviceOffline", f"class in {answer}")


class SlowToAttach(FakeImaged):
    asked = None

    def on_attach(self, message):
        self.asked = message


def a_detach_does_not_take_the_reply_of_an_attach_that_waits(place):
    _, client, imaged = begin(place, workers=0)
    imaged.stop()
    slow = SlowToAttach(place, size=8 * MIB, incarnation=6).begin()
    wait_until(lambda: slow.asked, "the question to attach")

    attaching = client.send("device-attach", device="vda", file="/images/leaf.qcow2", imaged="alpha")
    check_equal(client.fails("device-detach", device="vda").error_class, "DeviceInUse", "class")
    FakeImaged.on_attach(slow, slow.asked)

    check_equal(client.reply(attaching)["return"].get("device"), "vda", "device in the attach's reply")


class SlowToFinish(FakeImaged):
    """Keeps the question whether a job may finish to itself."""

    asked = None

    def on_finish(self, message):
        self.asked = message


def until_it_finishes(place, size=MIB):
    place.start("sluice-broker")
    client = Client(place)
    imaged = SlowToFinish(place, size=size).begin()
    FakeWorker(place, "worker", incarnation=100).begin()
    attach(client)
    client.call("block_stream", device="vda")
    wait_until(lambda: imaged.asked, "the question whether it may finish")
    return client, imaged


def a_cancel_while_it_finishes_is_remembered_where_something_is_missing(place):
    client, imaged = until_it_finishes(place)

    check_equal(client.call("block_job_cancel", device="vda"), {}, "reply")
    imaged.answer(imaged.asked, "unfinished", offset=0)

    wait_for_end(client)
    check_equal([event["event"] for event in ends(events_of(client))], ["BLOCK_JOB_CANCELLED"], "ends")


def a_cancel_while_it_finishes_comes_too_late_where_nothing_is(place):
    client, imaged = until_it_finishes(place)

    check_equal(client.call("block_job_cancel", device="vda"), {}, "reply")
    FakeImaged.on_finish(imaged, imaged.asked)

    wait_for_end(client)
    check_equal([event["event"] for event in ends(events_of(client))], ["BLOCK_JOB_COMPLETED"], "ends")


def force_ends_a_finishing_job_whose_imaged_is_away(place):
    client, imaged = until_it_finishes(place)
    imaged.stop()
    wait_until(lambda: not client.call("query-devices")[0]["online"], "the device to be offline")

    check_equal(client.call("block_job_cancel", device="vda"), {}, "reply")
    check_equal(len(client.call("query-block-jobs")), 1, "jobs, while it may complete yet")
    check_equal(client.call("block_job_cancel", device="vda", force=True), {}, "reply")

    check_equal(client.call("query-block-jobs"), [], "jobs")
    check_equal([event["event"] for event in ends(events_of(client))], ["BLOCK_JOB_CANCELLED"], "ends")
    check_equal(client.call("device-detach", device="vda", force=True), {}, "detach")


def a_token_starts_one_job_however_often_it_is_said(place):
    _, client, _ = begin(place)

    for _ in range(3):
        check_equal(client.call("block_stream", device="vda", token="once"), {}, "reply")
    wait_for_end(client)
    check_equal(client.call("block_stream", device="vda", token="once"), {}, "reply after the end")
    check_equal(client.fails("block_stream", device="vda", token="once", speed=1).error_class, "GenericError", "class")

    time.sleep(0.3)
    check_equal(len(ends(events_of(client))), 1, "ends")


def a_device_has_one_job_at_a_time(place):
    _, client, _ = begin(place, workers=0)
    client.call("block_stream", device="vda")

    error = client.fails("block_stream", device="vda", job_id="other")

    check_equal((error.error_class, error.desc), ("DeviceInUse", "Device 'vda' is in use"), "error")
    check_equal(client.fails("device-detach", device="vda").error_class, "DeviceInUse", "class of detach")


def a_broker_that_is_killed_goes_on_with_its_jobs(place):
    broker, client, imaged = begin(place, workers=0, size=32 * MIB)
    worker = FakeWorker(place, "worker-1", incarnation=7, slots=1)
    worker.begin()
    client.call("block_stream", device="vda", job_id="mine", speed=8 * MIB)
    wait_until(lambda: client.call("query-block-jobs")[0]["copied"] > 8 * MIB, "some copies")
    client.call("block_job_set_speed", device="mine", speed=4 * MIB)  # answered when that is stored, and so are the counters before it
    check(broker.kill(), "the kill hit nobody")

    place.start("sluice-broker")
    client = Client(place)
    job = wait_until(lambda: client.call("query-block-jobs"), "the job")[0]

    check_equal((job["job-id"], job["device"], job["speed"]), ("mine", "vda", 4 * MIB), "job")
    check(job["copied"] > 0, "its counters")
    check_equal(client.call("block_job_set_speed", device="mine", speed=0), {}, "set-speed")
    wait_for_end(client)
    check_equal(len(ends(events_of(client))), 1, "ends")
    check_equal(statuses(events_of(client))[:2], ["created", "running"], "statuses")


def sigterm_in_the_middle_of_a_job_ends_no_job(place):
    place.keep_state_in_memory()
    broker, client, _ = begin(place, workers=2, size=32 * MIB)
    client.call("block_stream", device="vda", speed=8 * MIB)
    wait_until(lambda: client.call("query-block-jobs")[0]["copied"], "some copies")

    check(broker.stop() < 3.0, "it took more than three seconds")

    place.start("sluice-broker")
    client = Client(place)
    check_equal(ends(events_of(client)), [], "ends")
    client.call("block_job_set_speed", device="vda", speed=0)
    wait_for_end(client)
    check_equal([event["event"] for event in ends(events_of(client))], ["BLOCK_JOB_COMPLETED"], "ends")


def a_worker_whose_process_ended_is_lost_at_the_next_word_to_it(place):
    _, client, _ = begin(place, workers=0, options=("--peer-timeout", "60"))
    dying = FakeWorker(place, "dying", incarnation=7).begin()
    wait_until(lambda: client.call("query-workers"), "the worker")

    dying.stop()

    wait_until(lambda: not client.call("query-workers"), "an empty roster", 5)
    lost = [event for event in client.all_events() if event["event"] == "WORKER_LOST"]
    check_equal([event["data"]["name"] for event in lost], ["dying"], "lost")


def a_worker_that_says_rubbish_is_lost_and_may_say_hello_again(place):
    _, client, _ = begin(place, workers=0)
    worker = FakeWorker(place, "odd", incarnation=7).begin()
    wait_until(lambda: client.call("query-workers"), "the worker")

    worker.tell_frame(b"rubbish")

    wait_until(lambda: any(event["event"] == "WORKER_LOST" for event in client.all_events()), "a lost worker")
    wait_until(lambda: len(client.call("query-workers")) == 1, "the worker again")
    client.call("block_stream", device="vda")
    wait_for_end(client)


def a_worker_whose_name_was_taken_ends_and_does_not_take_it_back(place):
    _, client, _ = begin(place, workers=0)
    old = place.start("sluice-worker", "--root", "/tmp", "--name", "twin")
    wait_until(lambda: client.call("query-workers"), "the worker")
    sleeper = FakeWorker(place, "twin", incarnation=1).begin()
    check_equal(old.wait(), 1, "exit status of the one before")

    place.start("sluice-worker", "--root", "/tmp", "--name", "twin")
    names = lambda: [event["event"] for event in client.all_events() if event["event"].startswith("WORKER_")]
    wait_until(lambda: len(names()) == 5, "the third twin")
    sleeper.tell("worker_heartbeat")  # it hears that it is unknown, and says hello again
    wait_until(lambda: [message["type"] for message in sleeper.log].count("worker_refused") >= 2, "its refusal")

    check_equal(names(), ["WORKER_JOINED", "WORKER_LOST", "WORKER_JOINED", "WORKER_LOST", "WORKER_JOINED"], "events")


def a_restart_without_the_imaged_stalls_and_goes_on_when_it_is_back(place):
    broker, client, imaged = begin(place, workers=0)
    client.call("block_stream", device="vda")
    imaged.stop()
    broker.kill()
    place.start("sluice-broker")
    client = Client(place)
    wait_until(lambda: client.call("query-block-jobs")[0].get("stalled") == "device-offline", "stalled")
    check_equal(client.call("query-devices")[0]["online"], False, "online")

    FakeImaged(place, size=8 * MIB, incarnation=6).begin()
    FakeWorker(place, "worker-1", incarnation=9).begin()

    wait_for_end(client)
    reasons = [event["data"]["reason"] for event in events_of(client) if event["event"] == "BLOCK_JOB_STALLED"]
    check("device-offline" in reasons and reasons[-1] == "", f"reasons {reasons}")


def a_job_without_workers_says_so_and_goes_on_with_one(place):
    _, client, _ = begin(place, workers=0)
    client.call("block_stream", device="vda")
    wait_until(lambda: client.call("query-block-jobs")[0].get("stalled") == "no-worker", "stalled")

    FakeWorker(place, "late", incarnation=9).begin()

    wait_for_end(client)
    reasons = [event["data"]["reason"] for event in events_of(client) if event["event"] == "BLOCK_JOB_STALLED"]
    check_equal(reasons, ["no-worker", ""], "reasons")


class Noting(FakeImaged):
    """Notes when how much was committed."""

    def __init__(self, place, **more):
        super().__init__(place, **more)
        self.marks = [(time.monotonic(), 0)]

    def on_commit(self, message):
        length = self.leases[message["lease"]]["length"]
        super().on_commit(message)
        self.marks.append((time.monotonic(), self.marks[-1][1] + length))


def the_speed_of_a_job_is_kept(place):
    _, client, imaged = begin(place, workers=2, size=24 * MIB, kind=Noting)
    begun = time.monotonic()
    client.call("block_stream", device="vda", speed=8 * MIB)

    wait_for_end(client)

    seconds = time.monotonic() - begun
    check(seconds > 2.3, f"24 MiB at 8 MiB/s took {seconds:.1f} s")
    later = [(at, committed) for at, committed in imaged.marks if committed >= 8 * MIB]  # without what may have come at once
    rate = quickest_rate(later, 4 * MIB) / MIB
    check(rate > 8 / 1.4, f"no 4 MiB were quicker than {rate:.1f} MiB/s with a limit of 8 MiB/s")


def progress_is_published_now_and_then_and_never_goes_back(place):
    _, client, _ = begin(place, workers=1, size=16 * MIB)
    feed = Events(place, "BLOCK_JOB_PROGRESS/vda/")
    begun = time.monotonic()
    client.call("block_stream", device="vda", speed=8 * MIB)
    wait_for_end(client)
    seconds = time.monotonic() - begun
    while feed.next(0.1):
        pass

    positions = [event["data"]["position"] for _, event in feed.seen]
    check(3 <= len(positions) <= 1 + seconds / 0.25, f"{len(positions)} progress events in {seconds:.1f} s")
    check_equal(positions, sorted(positions), "positions")
    check(all("seq" not in event for _, event in feed.seen), "progress is not durable")


run(globals())
