# SPDX-License-Identifier: Apache-2.0
"""Sluice's sockets from Python, for tests: a client, a subscriber, and hand-made workers and imageds.

Knows nothing that the schemas say: field names are given as they are on the wire, with `_` for `-`."""

import collections
import threading
import time

import msgpack
import zmq

from harness import Failed


def pack(value):
    return msgpack.packb(value, use_bin_type=True)


def unpack(frame):
    return msgpack.unpackb(frame, raw=False, strict_map_key=False)


def wire_names(fields):
    return {name.replace("_", "-"): value for name, value in fields.items()}


class CommandError(Exception):
    """The broker answered a request with an error."""

    def __init__(self, error):
        super().__init__(f"{error['class']}: {error['desc']}")
        self.error_class = error["class"]
        self.desc = error["desc"]
        self.data = error.get("data", {})


class Socket:
    """A socket with a context of its own, so that closing one leaves nothing behind.  `queue` messages each way are kept here
    (0: any number); what the broker sends beyond that and beyond its own queue is lost."""

    def __init__(self, place, kind, endpoint, queue=0):
        self.context = zmq.Context(io_threads=1)
        self.socket = self.context.socket(kind)
        self.socket.linger = 0
        self.socket.set_hwm(queue)
        self.prepare()
        self.socket.connect(endpoint)
        place.finally_do(self.close)

    def prepare(self):
        pass

    def receive_frames(self, seconds):
        """All frames of the next message; None after `seconds`."""
        if not self.socket.poll(max(0, int(seconds * 1000))):
            return None
        return self.socket.recv_multipart()

    def close(self):
        if not self.socket.closed:
            self.socket.close(0)
            self.context.term()


class Client(Socket):
    """Sends commands; several may be under way, told apart by id."""

    def __init__(self, place, endpoint=None):
        self.next_id = 1
        self.early = {}
        super().__init__(place, zmq.DEALER, endpoint or place.endpoint("commands"))

    def send(self, command, **arguments):
        """Sends a request without waiting; returns its id."""
        number = self.next_id
        self.next_id += 1
        self.socket.send_multipart([b"", pack({"execute": command, "arguments": wire_names(arguments),
                                                "id": number})])
        return number

    def reply(self, number, seconds=10.0):
        """The whole reply to the request of that id."""
        deadline = time.monotonic() + seconds
        while number not in self.early:
            frames = self.receive_frames(deadline - time.monotonic())
            if frames is None:
                raise Failed(f"no reply to request {number} within {seconds} s")
            answer = unpack(frames[-1])
            self.early[answer.get("id")] = answer
        return self.early.pop(number)

    def ask(self, command, seconds=10.0, **arguments):
        """The whole reply, error or not."""
        return self.reply(self.send(command, **arguments), seconds)

    def call(self, command, seconds=10.0, **arguments):
        """What the command returns; raises CommandError."""
        answer = self.ask(command, seconds, **arguments)
        if "error" in answer:
            raise CommandError(answer["error"])
        return answer["return"]

    def fails(self, command, seconds=10.0, **arguments):
        """The error that the command must give."""
        answer = self.ask(command, seconds, **arguments)
        if "error" not in answer:
            raise Failed(f"{command} {arguments} did not fail: {answer}")
        return CommandError(answer["error"])

    def all_events(self, after=0, **filters):
        """Durable events from the log, page by page."""
        found = []
        while True:
            page = self.call("query-events", after=after, **filters)
            found += page["events"]
            if not page["more"]:
                return found
            after = page["events"][-1]["seq"]


class Events(Socket):
    """A subscriber.  Keeps all it has seen in `seen`."""

    def __init__(self, place, prefix="", endpoint=None):
        self.prefix = prefix
        self.seen = []
        super().__init__(place, zmq.SUB, endpoint or place.endpoint("events"))

    def prepare(self):
        self.socket.subscribe(self.prefix)

    def next(self, seconds=10.0):
        """(topic, event), or None after `seconds`."""
        frames = self.receive_frames(seconds)
        if frames is None:
            return None
        found = (frames[0].decode(), unpack(frames[1]))
        self.seen.append(found)
        return found

    def until(self, wanted, seconds=10.0, **fields):
        """The next event of that name whose data has these fields."""
        fields = wire_names(fields)
        deadline = time.monotonic() + seconds
        while True:
            found = self.next(deadline - time.monotonic())
            if found is None:
                raise Failed(f"no {wanted} {fields} within {seconds} s; seen: {[topic for topic, _ in self.seen]}")
            event = found[1]
            if event["event"] == wanted and all(event["data"].get(name) == value for name, value in fields.items()):
                return event


class Peer(Socket):
    """A hand-made worker or imaged: a DEALER that packs maps with a type."""

    def __init__(self, place, endpoint):
        super().__init__(place, zmq.DEALER, endpoint)

    def send(self, kind, **fields):
        self.socket.send(pack({"type": kind, **wire_names(fields)}))

    def receive(self, seconds=10.0):
        """The next message; None after `seconds`."""
        frames = self.receive_frames(seconds)
        return None if frames is None else unpack(frames[-1])

    def expect(self, kind, seconds=10.0):
        """The next message of that type; others on the way are dropped."""
        deadline = time.monotonic() + seconds
        seen = []
        while True:
            message = self.receive(deadline - time.monotonic())
            if message is None:
                raise Failed(f"no {kind} within {seconds} s; seen: {seen}")
            if message["type"] == kind:
                return message
            seen.append(message["type"])


class Actor(threading.Thread):
    """A peer that answers by itself, on a thread of its own: `on_<type>` is called for each message."""

    heartbeat = "worker_heartbeat"

    def __init__(self, place, endpoint):
        super().__init__(daemon=True)
        self.place = place
        self.endpoint = endpoint
        self.stopping = threading.Event()
        self.paused = threading.Event()
        self.failure = None
        self.from_outside = collections.deque()  # frames that other threads want sent
        self.log = []
        self.peer = None
        place.finally_do(self.stop)

    def begin(self):
        self.start()
        return self

    def stop(self):
        """Falls silent without a goodbye, as a killed process does."""
        self.stopping.set()
        if self.is_alive():
            self.join(10)
        if self.failure:
            raise self.failure

    def say_hello(self):
        raise NotImplementedError

    def tell(self, kind, **fields):
        """Sends a message; any thread may."""
        self.tell_frame(pack({"type": kind, **wire_names(fields)}))

    def tell_frame(self, frame):
        if threading.current_thread() is self:
            self.peer.socket.send(frame)
        else:
            self.from_outside.append(frame)

    def run(self):
        place = Quiet()
        self.peer = Peer(place, self.endpoint)
        try:
            self.say_hello()
            beat = time.monotonic()
            while not self.stopping.is_set():
                if self.paused.is_set():
                    self.stopping.wait(0.01)
                    continue
                message = self.peer.receive(0.02)
                while self.from_outside:
                    self.tell_frame(self.from_outside.popleft())
                if time.monotonic() - beat > 0.5:
                    beat = time.monotonic()
                    self.tell(self.heartbeat)
                if message is not None:
                    self.log.append(message)
                    getattr(self, "on_" + message["type"], self.ignore)(message)
        except Exception as failure:
            self.failure = failure
        finally:
            self.peer.close()

    def ignore(self, message):
        pass


class Quiet:
    """Stands for a workplace where the owner closes its sockets itself."""

    def finally_do(self, action):
        pass


class FakeWorker(Actor):
    """Joins whatever it is told to, and reports every copy as done without copying."""

    heartbeat = "worker_heartbeat"

    def __init__(self, place, name="worker-1", realm="here", slots=2, incarnation=77, endpoint=None):
        super().__init__(place, endpoint or place.endpoint("workers"))
        self.worker = name
        self.realm = realm
        self.slots = slots
        self.incarnation = incarnation
        self.hold = False  # orders are kept in `held` instead of being reported
        self.held = []
        self.copied = 0

    def say_hello(self):
        self.tell("worker_hello", protocol=1, name=self.worker, incarnation=self.incarnation, host="here",
                       boot_id="boot", realm=self.realm, pid=1, slots=self.slots, joins=[], leases=[])

    def on_worker_unknown(self, _message):
        self.say_hello()

    def on_join(self, message):
        self.tell("joined", join=message["join"], boot_id="boot",
                       device_number=message["leaf"]["device-number"], inode=message["leaf"]["inode"])

    def on_leave(self, message):
        self.tell("left", join=message["join"])

    def on_copy_stop(self, message):
        self.held = [order for order in self.held if order["lease"] != message["lease"]]
        self.tell("copy_stopped", lease=message["lease"])

    def on_copy_order(self, message):
        if self.hold:
            self.held.append(message)
        else:
            self.report(message)

    def report(self, order):
        length = sum(extent["length"] for extent in order["destinations"])
        self.copied += length
        self.tell("copied", lease=order["lease"], bytes=length, zeroes=[], microseconds=1000)


class FakeImaged(Actor):
    """Holds devices whose every cluster must be copied; answers each request, keeps what was committed."""

    heartbeat = "imaged_heartbeat"

    def __init__(self, place, name="alpha", realm="here", incarnation=5, size=1 << 20, endpoint=None):
        super().__init__(place, endpoint or place.endpoint("images"))
        self.imaged = name
        self.realm = realm
        self.incarnation = incarnation
        self.size = size
        self.cluster = 65536
        self.devices = {}
        self.jobs = {}  # (device, job) -> set of clusters that are there
        self.leases = {}
        self.joins = {}
        self.counter = incarnation << 20

    def draw(self):
        self.counter += 1
        return self.counter

    def device_state(self, device):
        file = self.devices[device]
        chain = [{"file": file, "format": "qcow2", "size": self.size, "node-name": device}]
        return {"device": device, "file": file, "format": "qcow2", "size": self.size,
                "cluster-size": self.cluster, "read-only": False, "copy-on-read": False, "nbd": "", "chain": chain}

    def say_hello(self):
        self.tell("imaged_hello", protocol=1, name=self.imaged, incarnation=self.incarnation, host="here",
                       boot_id="boot", realm=self.realm, pid=2,
                       devices=[self.device_state(device) for device in self.devices],
                       jobs=[{"device": device, "job": job} for device, job in self.jobs],
                       joins=[{"join": number, "device": device, "worker": worker, "incarnation": incarnation,
                               "confirmed": True}
                              for number, (device, worker, incarnation) in self.joins.items()],
                       leases=[{"lease": number, **lease} for number, lease in self.leases.items()])

    def answer(self, message, kind, **fields):
        self.tell(kind, request=message["request"], **fields)

    def on_imaged_unknown(self, _message):
        self.say_hello()

    def on_attach(self, message):
        self.devices[message["device"]] = message["file"]
        self.answer(message, "attached", state=self.device_state(message["device"]))

    def on_detach(self, message):
        self.devices.pop(message["device"], None)
        self.answer(message, "detached")

    def on_plan(self, message):
        self.answer(message, "planned", layers=[], copy=self.size, zeroes=0, holes=0, present=0,
                    leaf_growth=self.size, space_free=1 << 40, chain=[], complete=True)

    def on_allocation(self, message):
        end = min(self.size, message["offset"] + message["length"])
        runs = [{"offset": message["offset"], "length": end - message["offset"], "state": "backing", "layer": 1}]
        self.answer(message, "allocation_page", runs=runs, end=end)

    def on_open_job(self, message):
        self.jobs.setdefault((message["device"], message["job"]), set())
        self.answer(message, "job_opened", size=self.size, cluster_size=self.cluster, nothing_to_do=False,
                    backing_name="", backing_format="")

    def on_map(self, message):
        there = self.jobs.get((message["device"], message["job"]), set())
        runs = []
        for offset in range(message["offset"], self.size, self.cluster):
            if offset in there:
                continue
            if runs and runs[-1]["offset"] + runs[-1]["length"] == offset:
                runs[-1]["length"] += self.cluster
            else:
                runs.append({"offset": offset, "length": self.cluster, "work": "copy"})
        self.answer(message, "map_page", offset=message["offset"], end=self.size,
                    present=len(there) * self.cluster, runs=runs)

    def on_prepare_join(self, message):
        number = self.draw()
        self.joins[number] = (message["device"], message["worker"], message["incarnation"])
        file = {"path": self.devices[message["device"]], "device-number": 1, "inode": 2, "size": 0, "mtime-ns": 0}
        self.answer(message, "join_prepared", join=number, leaf=file, lock_byte=(1 << 40) + number,
                    cluster_size=self.cluster, sources=[file])

    def on_confirm_join(self, message):
        self.answer(message, "join_confirmed")

    def on_end_join(self, message):
        self.joins.pop(message["join"], None)
        self.answer(message, "join_ended")

    def on_reserve(self, message):
        number = self.draw()
        length = message["length"]
        self.leases[number] = {"device": message["device"], "job": message["job"], "join": message["join"],
                               "offset": message["offset"], "length": length}
        self.answer(message, "reserved", lease=number, offset=message["offset"], length=length, skipped=0,
                    detect_zeroes=True,
                    sources=[{"codec": "plain", "length": length, "file": 0, "offset": message["offset"]}],
                    destinations=[{"offset": (1 << 30) + message["offset"], "length": length}])

    def on_zero(self, message):
        self.answer(message, "zeroed", zeroes=message["length"], superseded=0)

    def on_commit(self, message):
        lease = self.leases.pop(message["lease"], None)
        if lease is None:
            self.answer(message, "image_error", **{"class": "GenericError"}, msg="no such lease")
            return
        there = self.jobs.setdefault((lease["device"], lease["job"]), set())
        there.update(range(lease["offset"], lease["offset"] + lease["length"], self.cluster))
        self.answer(message, "committed", copied=lease["length"], zeroes=0, superseded=0)

    def on_abort(self, message):
        self.leases.pop(message["lease"], None)
        self.answer(message, "aborted")

    def on_finish(self, message):
        there = self.jobs.get((message["device"], message["job"]), set())
        missing = [offset for offset in range(0, self.size, self.cluster) if offset not in there]
        if missing:
            self.answer(message, "unfinished", offset=missing[0])
            return
        self.jobs.pop((message["device"], message["job"]), None)
        self.answer(message, "finished", state=self.device_state(message["device"]))

    def on_close_job(self, message):
        self.jobs.pop((message["device"], message["job"]), None)
        self.answer(message, "job_closed")
