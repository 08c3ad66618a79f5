#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The command line against a broker played by Python: what it sends, what it prints, how it exits, and that no event is lost."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

import zmq

from harness import Failed, check, check_equal, program, run, wait_until
from message_document import Document
from sluice_wire import pack, unpack

EVENTS = len(Document().events)  # who follows subscribes to each

JOB = {"job-id": "vda", "device": "vda", "type": "stream", "status": "running", "position": 600, "end": 1000, "offset": 600,
       "len": 1000, "speed": 0, "paused": False, "busy": True, "io-status": "ok", "auto-finalize": True,
       "auto-dismiss": True, "priority": 5, "parked": [], "parked-bytes": 0, "copied": 5 << 20, "zeroes": 0, "present": 0,
       "superseded": 0, "rate": 3 << 20, "eta": 75}
DEVICE = {"device": "vda", "imaged": "alpha", "realm": "here", "size": 10 << 30, "cluster-size": 65536,
          "chain": [{"file": "/images/leaf.qcow2", "format": "qcow2", "size": 10 << 30, "node-name": "vda"},
                    {"file": "base.raw", "format": "raw", "size": 10 << 30, "node-name": "vda#1"}],
          "nbd": "", "online": True, "read-only": False, "copy-on-read": False}
WORKER = {"name": "worker-1", "host": "alpha", "realm": "here", "slots": 2, "busy": 0, "ranges": 12, "bytes": 7 << 30,
          "idle-ms": 5000}
STATUS = {"version": "0.1.0", "epoch": 7, "uptime": 61, "jobs": {"running": 2}, "devices": 3, "devices-online": 2,
          "workers": 1, "rate": 1 << 20, "queued-bytes": 1 << 30, "speed": 0}
PLAN = {"layers": [{"file": "base.raw", "copy": 65536}], "copy": 65536, "zeroes": 0, "holes": 983040, "present": 0,
        "leaf-growth": 196608, "space-free": 1 << 40, "chain": DEVICE["chain"][:1]}


class Broker(threading.Thread):
    """Answers commands from `answers` (a value, or a function of the arguments); keeps a log of events and publishes them,
    unless they are to be lost."""

    def __init__(self, place, answers=None):
        super().__init__(daemon=True)
        self.answers = {"query-version": {"contract": 1}, "query-block-jobs": [JOB], "query-devices": [DEVICE],
                        "query-workers": [WORKER], "query-status": STATUS, "query-stream-plan": PLAN,
                        "device-attach": DEVICE, "query-allocation": [
                            {"offset": 0, "length": 5 << 30, "state": "leaf"},
                            {"offset": 5 << 30, "length": 5 << 30, "state": "backing", "layer": 1}]}
        self.answers.update(answers or {})
        self.requests = []
        self.log = []
        self.pruned = 0
        self.epoch = 7
        self.heartbeats = True
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.context = zmq.Context()
        os.makedirs(place.run_dir, exist_ok=True)
        self.commands = self.context.socket(zmq.ROUTER)
        self.events = self.context.socket(zmq.XPUB)
        for socket, name in ((self.commands, "commands"), (self.events, "events")):
            socket.linger = 0
            socket.bind(place.endpoint(name))
        self.subscriptions = set()
        self.outbox = []
        place.finally_do(self.stop)
        self.start()

    def stop(self):
        self.stopping.set()
        self.join(5)
        self.commands.close(0)
        self.events.close(0)
        self.context.term()

    def event(self, name, durable=True, lost=False, **data):
        """Adds an event to the log (if durable) and publishes it (unless lost)."""
        data = {key.replace("_", "-"): value for key, value in data.items()}
        event = {"event": name, "data": data, "timestamp": {"seconds": 1, "microseconds": 2}}
        with self.lock:
            if durable:
                event["seq"] = self.last() + 1
                event["prev"] = max([e["seq"] for e in self.log if e["event"] == name], default=0)
                self.log.append(event)
            if not lost:
                self.outbox.append((f"{name}/{data.get('device', '')}/", event))

    def last(self):
        return self.log[-1]["seq"] if self.log else 0

    def heartbeat(self):
        self.event("BROKER_HEARTBEAT", durable=False, epoch=self.epoch, first=self.pruned + 1, last=self.last(),
                   last_by_event={})

    def wait_follower(self):
        """From here on it hears all that is published, in that order."""
        wait_until(lambda: len(self.subscriptions) >= EVENTS, "the subscriptions")

    def run(self):
        beat = 0.0
        while not self.stopping.is_set():
            if self.heartbeats and time.monotonic() - beat > 0.3:
                beat = time.monotonic()
                self.heartbeat()
            with self.lock:
                outbox, self.outbox = self.outbox, []
            for topic, event in outbox:
                self.events.send_multipart([topic.encode(), pack(event)])
            while self.events.poll(0):
                self.subscriptions.add(self.events.recv())
            if self.commands.poll(5):
                self.answer(self.commands.recv_multipart())

    def answer(self, frames):
        request = unpack(frames[-1])
        self.requests.append((request["execute"], request.get("arguments", {})))
        reply = {"seq": self.last(), "id": request.get("id")}
        if request["execute"] == "query-events":
            reply["return"] = self.page(request["arguments"])
        else:
            answer = self.answers.get(request["execute"], {})
            answer = answer(request.get("arguments", {})) if callable(answer) else answer
            if isinstance(answer, Refusal):
                reply["error"] = {"class": answer.error_class, "desc": answer.desc, "data": {}}
            else:
                reply["return"] = answer
        self.commands.send_multipart([*frames[:-1], pack(reply)])

    def page(self, arguments):
        with self.lock:
            found = [e for e in self.log if e["seq"] > max(arguments["after"], self.pruned)]
        limit = min(arguments.get("limit", 1000), 3)  # many small pages
        return {"events": found[:limit], "first": self.pruned + 1 if self.log else 0, "last": self.last(),
                "more": len(found) > limit, "epoch": self.epoch}


class Refusal:
    def __init__(self, error_class, desc):
        self.error_class = error_class
        self.desc = desc


def sluice(place, *arguments, **options):
    return place.call("sluice", *arguments, **options)


def one_line(text):
    check_equal(text.count("\n"), 1, f"lines of '{text}'")
    return text


def tables_show_what_the_broker_says(place):
    Broker(place)
    for command, words in [(["jobs"], ["vda", "running", "60%", "3.0 MiB/s", "1 min 15 s", "5.0 MiB"]),
                           (["devices"], ["vda", "online", "10.0 GiB", "/images/leaf.qcow2 < base.raw"]),
                           (["workers"], ["worker-1", "12", "7.0 GiB", "5 s"]),
                           (["status"], ["0.1.0", "1 min 1 s", "2 running", "3, 2 online", "1.0 GiB"]),
                           (["plan", "vda"], ["64.0 KiB", "base.raw", "/images/leaf.qcow2", "1.0 TiB"]),
                           (["map", "vda"], ["#####", "....."]),
                           (["attach", "vda", "leaf.qcow2"], ["10.0 GiB"])]:
        done = sluice(place, *command)
        for word in words:
            check(word in done.stdout, f"{command}: '{word}' is not in\n{done.stdout}")
        check_equal(done.stderr, "", f"stderr of {command}")


def empty_lists_say_so(place):
    Broker(place, {"query-block-jobs": [], "query-devices": [], "query-workers": []})
    for command in ("jobs", "devices", "workers"):
        check_equal(sluice(place, command).stdout, f"no {command}\n")


def json_is_the_reply_as_it_came(place):
    Broker(place)
    for command, wanted in [(["jobs"], [JOB]), (["status"], STATUS), (["cancel", "vda"], {})]:
        reply = json.loads(one_line(sluice(place, *command, "--json").stdout))
        check_equal(reply, {"return": wanted, "seq": 0})


def arguments_reach_the_broker(place):
    broker = Broker(place)
    image = place.path / "leaf.qcow2"
    image.write_bytes(b"")
    for command, wanted in [
            (["block-stream", "vda"], ("block_stream", {"device": "vda"})),
            (["block_stream", "vda", "--base", "b", "--job-id", "j", "--speed", "2M", "--token", "t", "--backing-file", "x"],
             ("block_stream", {"device": "vda", "base": "b", "job-id": "j", "speed": 2 << 20, "token": "t",
                               "backing-file": "x"})),
            (["block-stream", "vda", "--floor", "0"], ("block_stream", {"device": "vda", "floor": 0})),
            (["block-stream", "vda", "--floor", "1M"], ("block_stream", {"device": "vda", "floor": 1 << 20})),
            (["block-stream", "vda", "--bottom", "b"], ("block_stream", {"device": "vda", "bottom": "b"})),
            (["cancel", "vda", "--force"], ("block_job_cancel", {"device": "vda", "force": True})),
            (["set-speed", "vda", "1K"], ("block_job_set_speed", {"device": "vda", "speed": 1024})),
            (["jobs", "--device", "vda"], ("query-block-jobs", {"device": "vda"})),
            (["devices", "vda"], ("query-devices", {"device": "vda"})),
            (["attach", "vda", image, "--format", "qcow2", "--read-only", "--copy-on-read", "--imaged", "a"],
             ("device-attach", {"device": "vda", "file": str(image), "format": "qcow2", "read-only": True,
                                "copy-on-read": True, "imaged": "a"})),
            (["detach", "vda"], ("device-detach", {"device": "vda"})),
            (["plan", "vda", "--base", "b"], ("query-stream-plan", {"device": "vda", "base": "b"}))]:
        sluice(place, *command)
        check_equal(broker.requests[-1], wanted, f"{command}")


def a_refusal_is_status_1_and_one_line(place):
    refusal = Refusal("DeviceNotFound", "Device 'vdb' not found")
    Broker(place, {"query-devices": refusal, "block_stream": refusal})
    for command in (["devices", "vdb"], ["block-stream", "vdb"], ["block-stream", "vdb", "--wait"]):
        done = sluice(place, *command, status=1)
        check_equal((done.stdout, done.stderr), ("", "sluice: Device 'vdb' not found\n"), f"{command}")
    done = sluice(place, "devices", "vdb", "--json", status=1)
    check_equal(json.loads(done.stdout)["error"]["class"], "DeviceNotFound")
    one_line(done.stderr)


def wrong_usage_is_status_2_and_one_line(place):
    for command in ([], ["nonsense"], ["jobs", "--nonsense"], ["jobs", "too", "many"], ["cancel"], ["set-speed", "vda"],
                    ["set-speed", "vda", "fast"], ["stream"], ["up"], ["call"], ["call", "{"], ["call", "[]"],
                    ["stream", "leaf", "--workers", "0"], ["events", "--after", "-1"]):
        done = sluice(place, *command, status=2)
        check_equal(done.stdout, "", f"stdout of {command}")
        one_line(done.stderr)


def help_is_there_for_every_command(place):
    listed = sluice(place, "--help").stdout
    names = [line.split()[0] for line in listed.splitlines() if line.startswith("  ") and line[2] != " "]
    check(len(names) >= 15, f"only {names}")
    for name in names:
        done = sluice(place, name, "--help")
        check(f"Usage: sluice {name}" in done.stdout, done.stdout)
    done = sluice(place, "block_stream", "--help")
    check(done.stdout.startswith("Copy data from a backing file into a block device."), done.stdout)
    check_equal(sluice(place, "--version").stdout.split()[0], "sluice")


def no_broker_is_a_clear_line(place):
    done = sluice(place, "jobs", status=1)
    check("no broker answers" in one_line(done.stderr), done.stderr)
    done = sluice(place, "jobs", "--broker", "tcp://192.0.2.1:1", status=1)
    check("--insecure" in one_line(done.stderr), done.stderr)


def a_broker_elsewhere_is_found(place):
    Broker(place)
    done = sluice(place, "jobs", "--broker", place.endpoint("commands"), environment={"SLUICE_RUN_DIR": "/nowhere"})
    check("vda" in done.stdout, done.stdout)


def any_request_can_be_called(place):
    broker = Broker(place, {"odd": {"a": [1, -1, True, None, "ü", 2.5, {}]}, "bad": Refusal("CommandNotFound", "no")})
    request = {"execute": "odd", "arguments": {"n": -5, "list": [None, {"x": 1.5}]}, "id": {"mine": [1]}}
    done = sluice(place, "call", json.dumps(request))
    check_equal(json.loads(done.stdout), {"return": {"a": [1, -1, True, None, "ü", 2.5, {}]}, "id": {"mine": [1]},
                                          "seq": 0})
    check_equal(broker.requests[-1], ("odd", request["arguments"]))
    done = sluice(place, "call", '{"execute": "bad"}', status=1)
    check_equal(json.loads(done.stdout)["error"]["class"], "CommandNotFound")


# ---------------------------------------------------------------- events


def fill(broker, count, **more):
    for number in range(count):
        broker.event("JOB_STATUS_CHANGE", device="vda" if number % 2 else "vdb", job_id="j", id="j", status="running", **more)


def seqs(text):
    return [event["seq"] for event in map(json.loads, text.splitlines()) if "seq" in event]


def stored_events_are_printed_in_order(place):
    broker = Broker(place)
    fill(broker, 10)
    check_equal(seqs(sluice(place, "events").stdout), list(range(1, 11)))
    check_equal(seqs(sluice(place, "events", "--after", 7).stdout), [8, 9, 10])
    check_equal(seqs(sluice(place, "events", "--device", "vda").stdout), [2, 4, 6, 8, 10])
    check_equal(seqs(sluice(place, "events", "--event", "NONE").stdout), [])
    broker.pruned = 4
    done = sluice(place, "events")
    check_equal(seqs(done.stdout), list(range(5, 11)))
    check("1 to 4" in done.stderr, done.stderr)


class Follower:
    """`sluice events --follow` as a process."""

    def __init__(self, place, *options):
        self.process = place.start("sluice", "events", "--follow", *options)

    def seqs(self):
        text = self.process.out_text()
        return seqs(text[:text.rfind("\n") + 1])


def each_durable_event_comes_once_and_in_order_whatever_is_lost(place):
    broker = Broker(place)
    fill(broker, 5)
    follower = Follower(place, "--after", 2)
    broker.wait_follower()
    for number in range(300):
        lost = place.random.random() < 0.3
        broker.event(place.random.choice(("JOB_STATUS_CHANGE", "WORKER_JOINED", "DEVICE_ONLINE")), lost=lost, device="vda")
        if not lost and place.random.random() < 0.2:  # doubled
            broker.outbox.append(("DEVICE_ONLINE/vda/", broker.log[-1]))
        if number % 50 == 0:
            time.sleep(0.1)
    wait_until(lambda: len(follower.seqs()) >= 303, "all events", 15.0)
    check_equal(follower.seqs(), list(range(3, 306)), "events")
    broker.event("WORKER_LOST", lost=True)  # nothing comes after it but heartbeats
    wait_until(lambda: follower.seqs()[-1] == 306, "the last event", 5.0)
    follower.process.stop()


def following_begins_now_and_ends_well_by_sigint(place):
    broker = Broker(place)
    fill(broker, 5)
    follower = Follower(place)
    broker.wait_follower()
    broker.event("DEVICE_ONLINE", device="vda")
    wait_until(lambda: follower.seqs() == [6], "the event")
    follower.process.signal(signal.SIGINT)
    check_equal(follower.process.wait(3.0), 0, "status")


def a_new_store_is_noticed(place):
    broker = Broker(place)
    fill(broker, 5)
    follower = Follower(place)
    broker.wait_follower()
    broker.heartbeat()  # tells the first epoch, and comes before the event
    broker.event("DEVICE_ONLINE", device="vda")
    wait_until(lambda: follower.seqs() == [6], "the old store's last event")
    broker.log.clear()  # before the epoch, for a heartbeat between them must not offer the old events as new ones
    broker.epoch = 8
    broker.event("DEVICE_ONLINE", device="vda")
    wait_until(lambda: follower.seqs() == [6, 1], "the new store's first event")
    check("new store" in follower.process.err_text(), follower.process.err_text())


# ---------------------------------------------------------------- block-stream --wait


def progress(broker, position, end=1000, rate=100):
    broker.event("BLOCK_JOB_PROGRESS", durable=False, device="vda", job_id="vda", position=position, end=end, copied=position,
                 rate=rate, eta=11)


def completed(broker, **more):
    broker.event("BLOCK_JOB_COMPLETED", device="vda", job_id="vda", type="stream", end=1000, position=1000, speed=0, len=1000,
                 offset=1000, **more)


def waiting_shows_progress_and_exits_by_the_outcome(place):
    for words, status, more in [("done in", 0, {}), ("An error", 1, {"error": "An error occurred", "errno": "EIO"})]:
        broker = Broker(place)
        completed(broker, error="an earlier job's")

        def start(_arguments, broker=broker, more=more):
            def go():
                broker.wait_follower()
                for position in (0, 500, 990):
                    progress(broker, position)
                broker.event("BLOCK_JOB_STALLED", device="vda", job_id="vda", reason="no-worker")
                broker.event("BLOCK_JOB_COMPLETED", device="vdb", job_id="vdb", error="another device's")
                completed(broker, lost=True, **more)
            threading.Thread(target=go).start()
            return {}

        broker.answers["block_stream"] = start
        done = sluice(place, "block-stream", "vda", "--wait", status=status)
        text = done.stdout + done.stderr
        check(words in text, text)
        check("50%" in done.stdout and "there is no worker" in done.stdout, done.stdout)
        broker.stop()
        broker.stop = lambda: None


def waiting_with_json_ends_with_the_events_data(place):
    broker = Broker(place)
    broker.answers["block_stream"] = lambda _: threading.Timer(0.2, completed, [broker]).start() or {}
    done = sluice(place, "block-stream", "vda", "--wait", "--json")
    data = json.loads(one_line(done.stdout))
    check_equal((data["device"], data["position"], data["end"]), ("vda", 1000, 1000))
    check(0.1 < data["seconds"] < 10, f"{data}")


def a_cancelled_job_is_status_1(place):
    broker = Broker(place)
    broker.answers["block_stream"] = lambda _: threading.Timer(0.2, broker.event, ["BLOCK_JOB_CANCELLED"], {
        "device": "vda", "job_id": "vda"}).start() or {}
    done = sluice(place, "block-stream", "vda", "--wait", status=1)
    check("cancelled" in one_line(done.stderr), done.stderr)


def ctrl_c_leaves_the_job_running_and_says_so(place):
    broker = Broker(place)
    waiter = place.start("sluice", "block-stream", "vda", "--wait", ready=False)
    wait_until(lambda: any(name == "block_stream" for name, _ in broker.requests), "the request")
    broker.wait_follower()
    progress(broker, 10)
    wait_until(lambda: "1%" in waiter.out_text(), "a word that shows that it has its reply and waits")
    waiter.signal(signal.SIGINT)
    check_equal(waiter.wait(3.0), 1, "status")
    check("goes on" in one_line(waiter.err_text()), waiter.err_text())
    check("block_job_cancel" not in [name for name, _ in broker.requests], "it cancelled the job")


def a_broker_that_falls_silent_is_waited_for(place):
    broker = Broker(place)
    waiter = place.start("sluice", "block-stream", "vda", "--wait", ready=False)
    wait_until(lambda: any(name == "block_stream" for name, _ in broker.requests), "the request")
    broker.heartbeats = False
    wait_until(lambda: "nothing is heard" in waiter.out_text(), "a word about the silence", 10.0)
    completed(broker, lost=True)
    broker.heartbeats = True
    check_equal(waiter.wait(5.0), 0, "status")
    check("is back" in waiter.out_text(), waiter.out_text())


def a_terminal_gets_a_bar_that_fits(place):
    broker = Broker(place)
    master, slave = os.openpty()
    subprocess.run(["stty", "cols", "60"], stdin=slave, check=True)
    child = subprocess.Popen([program("sluice"), "block-stream", "vda", "--wait"], stdout=slave, stderr=slave, stdin=slave,
                             env=place.environment())
    os.close(slave)
    wait_until(lambda: any(name == "block_stream" for name, _ in broker.requests), "the request")
    broker.wait_follower()
    progress(broker, 43 << 20, 100 << 20, 5 << 20)
    completed(broker)
    text = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:
            break
        if not part:
            break
        text += part
    os.close(master)
    check_equal(child.wait(5), 0, "status")
    bar = next((line for line in text.decode().replace("\n", "\r").split("\r") if "[" in line and "43%" in line), None)
    if bar is None:
        raise Failed(f"no bar in {text!r}")
    bar = bar.split("\x1b")[0]
    check(len(bar) < 60 and "=>" in bar and "43.0 MiB of 100 MiB" in bar, bar)


run(globals())
