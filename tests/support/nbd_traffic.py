# SPDX-License-Identifier: Apache-2.0
"""Guests: several NBD clients with many random requests in flight at once, every answer compared with a Model.

A request that changes bytes shares none of them with any other in flight, for what two of those leave behind is undefined; but they
meet in clusters and even in sectors, where the server's mistakes live.  Some reads race with writes: they take no place of their own
and are checked against all that may be there.  After the server's death the clients come back, as QEMU's do with reconnect-delay, and
must find all they were answered for."""

import collections
import os
import random
import select
import threading

from harness import Failed, Skip, wait_until
from nbd_model import Model

try:
    import nbd
except ImportError:
    nbd = None

MOST = 2 << 20  # bytes of a request
KEPT = 100_000  # requests that an explanation can name
CHANGES = ("write", "zero", "trim")
USUAL = {"read": 40, "write": 36, "zero": 8, "trim": 8, "flush": 3, "status": 4, "cache": 1}


class Request:
    """What a client asked for; its data can be made again from its number."""

    def __init__(self, number, kind, offset=0, length=0, flags=0, blank=False):
        self.number, self.kind, self.offset, self.length, self.flags = number, kind, offset, length, flags
        self.blank = blank  # a write of zeroes
        self.racing = False
        self.block = self.buffer = self.before = None
        self.racers = []
        self.extents = []
        self.state = "in flight"

    def data(self):
        if self.kind != "write" or self.blank:
            return bytes(self.length)
        return random.Random(self.number).randbytes(self.length)

    def let_go(self):
        """Of its memory: nothing reads or writes there any more."""
        if self.block is not None:
            BLOCKS.give(self.block)
        self.block = self.buffer = None

    def overlaps(self, offset, length):
        return offset < self.offset + self.length and self.offset < offset + length

    def __str__(self):
        flags = f" flags {self.flags}" if self.flags else ""
        return f"{self.kind} {self.number} [{self.offset}, {self.offset + self.length}){flags}"


class Blocks:
    """Memory for the bytes of requests, used again and again: libnbd 1.14 never lets go of a buffer that was used once."""

    def __init__(self):
        self.free = []

    def take(self, length):
        block = self.free.pop() if self.free else bytearray(MOST)
        return block, memoryview(block)[:length]

    def give(self, block):
        self.free.append(block)


BLOCKS = Blocks()


class Connection:
    """One client."""

    def __init__(self, uri, seconds=30.0):
        self.in_flight = []
        self.answered = collections.deque()  # (request, error number) of completed requests
        self.last_error = None
        wait_until(lambda: self._connected(uri), f"a connection to {uri}", seconds)

    def _connected(self, uri):
        self.handle = nbd.NBD()
        self.handle.add_meta_context("base:allocation")
        try:
            self.handle.connect_uri(uri)
            return True
        except nbd.Error:
            return False

    def send(self, request):
        handle, done = self.handle, self._done(request)
        if request.kind == "read":
            request.block, request.buffer = BLOCKS.take(request.length)
            handle.aio_pread(nbd.Buffer.from_buffer(request.buffer), request.offset, done)
        elif request.kind == "write":
            request.block, request.buffer = BLOCKS.take(request.length)
            request.buffer[:] = request.data()
            handle.aio_pwrite(nbd.Buffer.from_buffer(request.buffer), request.offset, done, request.flags)
        elif request.kind == "zero":
            handle.aio_zero(request.length, request.offset, done, request.flags)
        elif request.kind == "trim":
            handle.aio_trim(request.length, request.offset, done, request.flags)
        elif request.kind == "flush":
            handle.aio_flush(done)
        elif request.kind == "cache":
            handle.aio_cache(request.length, request.offset, done)
        else:
            handle.aio_block_status(request.length, request.offset, _collect(request), done)
        self.in_flight.append(request)

    def _done(self, request):
        def completed(error):
            self.answered.append((request, error.value))
            return 1
        return completed

    def is_dead(self):
        return self.handle.aio_is_dead() or self.handle.aio_is_closed()

    def events(self):
        direction = self.handle.aio_get_direction()
        return ((select.POLLIN if direction & nbd.AIO_DIRECTION_READ else 0)
                | (select.POLLOUT if direction & nbd.AIO_DIRECTION_WRITE else 0))

    def notify(self, events):
        """Errors show in is_dead(), and there the requests are found that have no answer."""
        try:
            if events & select.POLLOUT and self.handle.aio_get_direction() & nbd.AIO_DIRECTION_WRITE:
                self.handle.aio_notify_write()
            elif events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                self.handle.aio_notify_read()
        except nbd.Error as error:
            self.last_error = str(error)

    def close(self):
        try:
            if not self.is_dead():
                self.handle.shutdown()
        except nbd.Error:
            pass
        self.handle = None


def _collect(request):
    def extent(_context, _offset, entries, _error):
        request.extents += entries
    return extent


class Traffic(threading.Thread):
    """Clients on a thread of their own, until stop().  `cluster`: the leaf's, which a discard clears whole.  `racing`: how many of
    the reads race."""

    def __init__(self, uri, content, seed, cluster=65536, clients=3, depth=4, racing=0.3, mix=None, most=MOST, fua=0.1,
                 no_hole=0.4):
        super().__init__(daemon=True)
        if nbd is None:
            raise Skip("python3-libnbd is not installed")
        self.uri, self.cluster, self.count, self.depth, self.racing, self.most = uri, cluster, clients, depth, racing, most
        self.random = random.Random(seed)
        self.mix, self.fua, self.no_hole = dict(mix or USUAL), fua, no_hole
        self.number = seed % 1_000_003 * 1_000_000
        self.history = collections.deque(maxlen=KEPT)
        self.initial = bytes(content)
        self.model = Model(content, self._explain)
        self.counts = collections.Counter()
        self.stopping, self.quiet, self.is_idle = threading.Event(), threading.Event(), threading.Event()
        self.breakable = False  # the server may go now
        self.generation = 0
        self.connections = []
        self.failure = None

    def run(self):
        try:
            self._connect()
            while not self.stopping.is_set():
                self._turn(issue=not self.quiet.is_set())
            self._drain()
        except Exception as failure:
            self.failure = failure
        finally:
            for connection in self.connections:
                connection.close()
            self.is_idle.set()

    # For the thread of the test.

    def begin(self):
        self.start()
        wait_until(lambda: self.generation or self.failure, "the clients' first connections", 30)
        self.check()
        return self

    def check(self):
        if self.failure:
            raise self.failure

    def wait_requests(self, more, seconds=30.0):
        """Until that many more were answered."""
        wanted = self.counts.total() + more
        wait_until(lambda: self.failure or self.counts.total() >= wanted, f"{more} answers to guests", seconds)
        self.check()

    def interrupted(self, action, seconds=40.0):
        """`action()` ends the server and starts it again; returns when all clients are connected to the new one."""
        before = self.generation
        self.breakable = True
        try:
            action()
            wait_until(lambda: self.failure or self.generation > before, "the clients to connect again", seconds)
        finally:
            self.breakable = False
        self.check()

    def pause(self, seconds=30.0):
        """Returns when nothing is in flight any more."""
        self.is_idle.clear()
        self.quiet.set()
        wait_until(lambda: self.is_idle.is_set() or self.failure, "what is in flight", seconds)
        self.check()

    def go_on(self):
        self.quiet.clear()

    def stop(self):
        """Ends all; whatever went wrong is raised."""
        self.stopping.set()
        self.join(60)
        if self.is_alive():
            raise Failed("the clients still wait for answers after 60 s")
        self.check()
        return self.model

    def abandon(self):
        """Without waiting for answers."""
        self.breakable = True
        self.stopping.set()

    def story(self):
        return ", ".join(f"{self.counts[kind]} {kind}" for kind in sorted(self.counts)) + f"; {self.generation} connections"

    # On its own thread.

    def _connect(self):
        for connection in self.connections:
            connection.close()
        self.connections = [Connection(self.uri) for _ in range(self.count)]
        handle = self.connections[0].handle
        if handle.get_size() != self.model.size:
            raise Failed(f"the export has {handle.get_size()} bytes, wanted {self.model.size}")
        self.least = max(1, handle.get_block_size(nbd.SIZE_MINIMUM))
        self.can = {"write": not handle.is_read_only(), "zero": handle.can_zero(), "trim": handle.can_trim(), "flush": handle.can_flush(), "fua": handle.can_fua(),
                    "cache": handle.can_cache(), "status": handle.can_meta_context("base:allocation")}
        if self.count > 1 and not handle.can_multi_conn():
            raise Failed("the server does not offer multi-conn")
        self.poll = select.poll()
        self.by_descriptor = {}
        for connection in self.connections:
            descriptor = connection.handle.aio_get_fd()
            self.by_descriptor[descriptor] = connection
            self.poll.register(descriptor)
        self.generation += 1

    def _turn(self, issue):
        broken = [one for one in self.connections if one.is_dead()]
        if issue and not broken:
            for connection in self.connections:
                while len(connection.in_flight) < self.depth and self._issue(connection):
                    pass
        for descriptor, connection in self.by_descriptor.items():
            if not connection.is_dead():
                self.poll.modify(descriptor, connection.events())
            else:
                self.poll.modify(descriptor, 0)
        for descriptor, events in self.poll.poll(20):
            self.by_descriptor[descriptor].notify(events)
        for connection in self.connections:
            self._take_answers(connection)
        if not self.in_flight() and not issue:
            self.is_idle.set()
        if broken:
            self._mend(broken)

    def _mend(self, broken):
        """When all are dead or idle: what is in flight has or has not happened, and a new server is looked for."""
        if not self.breakable:
            why = "; ".join(f"{one.last_error}, with {', '.join(map(str, one.in_flight))} in flight" for one in broken)
            raise Failed(f"{len(broken)} of {self.count} clients lost their connection: {why}")
        if all(one.is_dead() or not one.in_flight for one in self.connections):
            for connection in self.connections:
                for request in connection.in_flight:
                    self._lost(request)
                connection.in_flight.clear()
            if not self.stopping.is_set():
                self._connect()

    def _drain(self):
        while self.in_flight():
            self._turn(issue=False)

    def in_flight(self):
        return [request for connection in self.connections for request in connection.in_flight]

    def _issue(self, connection):
        request = self._choose()
        if request is None:
            return False
        try:
            connection.send(request)
        except nbd.Error as error:
            request.let_go()
            if not self.breakable and not connection.is_dead():  # the next turn tells of one that died meanwhile
                raise Failed(f"{request} was refused by libnbd: {error}") from error
            return False
        if request.racing:
            request.before = self.model.snapshot(request.offset, request.length)
            request.racers = [one for one in self.in_flight() if one.kind in CHANGES and one.overlaps(request.offset, request.length)]
        elif request.kind in CHANGES:
            for one in self.in_flight():
                if one.racing and one.overlaps(request.offset, request.length):
                    one.racers.append(request)
        self.history.append(request)
        return True

    def _choose(self):
        kinds = [kind for kind in self.mix if self.can.get(kind, True)]
        kind = self.random.choices(kinds, [self.mix[kind] for kind in kinds])[0]
        self.number += 1
        if kind == "flush":
            return Request(self.number, kind)
        racing = kind == "read" and self.random.random() < self.racing
        for _ in range(20):
            offset, length = self._place()
            if racing or not any(one.overlaps(offset, length) for one in self.in_flight()
                                 if not one.racing and (kind in CHANGES or one.kind in CHANGES)):
                break
        else:
            return None
        request = Request(self.number, kind, offset, length, blank=self.random.random() < 0.1)
        request.racing = racing
        if kind in CHANGES and self.can["fua"] and self.random.random() < self.fua:
            request.flags |= nbd.CMD_FLAG_FUA
        if kind == "zero" and self.random.random() < self.no_hole:
            request.flags |= nbd.CMD_FLAG_NO_HOLE
        return request

    def _place(self):
        """Mostly a few clusters that all share, at all alignments; also whole ones, many, and the device's end."""
        draw, size, cluster = self.random, self.model.size, self.cluster
        spots = -(-size // cluster)
        spot = draw.randrange(min(spots, 6)) * max(1, spots // 6) if draw.random() < 0.6 else draw.randrange(spots)
        offset = spot * cluster
        shape = draw.random()
        if shape < 0.35:  # bytes
            offset += draw.randrange(cluster)
            length = draw.choice((1, 2, draw.randrange(1, 512), draw.randrange(1, 5000)))
        elif shape < 0.65:  # sectors and pages
            unit = draw.choice((512, 4096))
            offset += draw.randrange(max(1, cluster // unit)) * unit
            length = unit * draw.choice((1, 1, 2, draw.randrange(1, 17)))
        elif shape < 0.85:  # clusters, and nearly so
            length = cluster * draw.choice((1, 1, 2, 3)) + draw.choice((0, 0, 0, -1, 1, -512, 512))
            offset += draw.choice((0, 0, 0, -1, 1, -512, 512))
        else:
            offset += draw.randrange(-cluster, cluster)
            length = draw.randrange(1, draw.choice((1 << 16, 1 << 18, self.most)))
        offset, length = min(max(offset, 0), size - 1), max(1, length)
        if draw.random() < 0.03:
            offset = size - min(length, size)
        length = min(length, size - offset, self.most)
        first, end = offset // self.least * self.least, -(-(offset + length) // self.least) * self.least
        return first, min(end, size) - first

    def _take_answers(self, connection):
        while connection.answered:
            request, error = connection.answered.popleft()
            if connection.is_dead() and error:  # libnbd's own answer: it has lost the server
                continue
            connection.in_flight.remove(request)
            if error:
                raise Failed(f"{request} failed: {os.strerror(error)}")
            else:
                self._answered(request)

    def _lost(self, request):
        request.state = "lost"
        request.let_go()
        self.counts["lost"] += 1
        if request.kind == "trim":
            self.model.trim(request.offset, request.length, self.cluster, certain=False)
        elif request.kind in CHANGES:
            self.model.perhaps(request.offset, request.data())

    def _answered(self, request):
        request.state = "answered"
        self.counts[request.kind] += 1
        model = self.model
        if request.kind == "read":
            found = bytes(request.buffer)
            request.let_go()
            if request.racing:
                model.check_racing(request.offset, found, request.before,
                                   [(one.offset, one.data()) for one in request.racers], str(request))
                request.before, request.racers = None, []
            else:
                model.check(request.offset, found, str(request))
        elif request.kind == "trim":
            model.trim(request.offset, request.length, self.cluster)
        elif request.kind in CHANGES:
            model.write(request.offset, request.data())
            request.let_go()
        elif request.kind == "status":
            self._check_status(request)

    def _check_status(self, request):
        at = request.offset
        for length, state in zip(request.extents[::2], request.extents[1::2]):
            length = min(length, request.offset + request.length - at)
            if state & nbd.STATE_ZERO and length > 0:
                self.model.check_zero(at, length, f"{request}, which says zero for [{at}, {at + length})")
            at += length
        if at <= request.offset:
            raise Failed(f"{request} told nothing: {request.extents}")
        request.extents = []

    def _explain(self, offset, found):
        """Which request's data was found instead, and the latest ones there."""
        here = [one for one in self.history if one.kind in CHANGES and one.offset <= offset < one.offset + one.length]
        whose = [one for one in here if one.data()[offset - one.offset:][:len(found)] == found]
        if whose:
            origin = f"that is what {whose[-1]} ({whose[-1].state}) wrote"
        elif self.initial[offset:offset + len(found)] == found:
            origin = "that is what the device had at first"
        else:
            origin = "nobody wrote that"
        return f"{origin}; the last there: {', '.join(f'{one} ({one.state})' for one in here[-4:]) or 'none'}"


def read_all(uri, model, step=1 << 20):
    """The whole device through a client of its own."""
    connection = Connection(uri)
    try:
        for offset in range(0, model.size, step):
            length = min(step, model.size - offset)
            model.check(offset, bytes(connection.handle.pread(length, offset)), f"the reading of all at {offset}")
    finally:
        connection.close()
