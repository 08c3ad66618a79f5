# SPDX-License-Identifier: Apache-2.0
"""A guest: libnbd, with what tests ask of it in one call each."""

import errno
import fcntl
import socket
import struct
import termios

from harness import Failed, Skip, check

try:
    import nbd
except ImportError:
    nbd = None


def uri(place, device):
    """At imaged's own socket; "" names no device."""
    return f"nbd+unix:///{device}?socket={place.run_dir}/nbd"


class Guest:
    """One connection."""

    def __init__(self, where, allow_files=False):
        if nbd is None:
            raise Skip("python3-libnbd is not installed")
        self.handle = nbd.NBD()
        self.handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        if allow_files:
            self.handle.set_uri_allow_local_file(True)
        self.handle.connect_uri(where)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.handle.shutdown()
        except nbd.Error:
            pass  # the other side has gone already
        self.handle = None  # which closes it

    @property
    def size(self):
        return self.handle.get_size()

    @property
    def is_read_only(self):
        return self.handle.is_read_only()

    def read(self, length, offset):
        return self.handle.pread(length, offset)

    def write(self, content, offset, fua=False):
        self.handle.pwrite(content, offset, nbd.CMD_FLAG_FUA if fua else 0)

    def zero(self, length, offset, may_trim):
        self.handle.zero(length, offset, 0 if may_trim else nbd.CMD_FLAG_NO_HOLE)

    def trim(self, length, offset):
        self.handle.trim(length, offset)

    def flush(self):
        self.handle.flush()

    def status(self, length, offset):
        """What one request for the map is answered: [(length, type)]."""
        found = []

        def add(_context, _offset, entries, _error):
            found.extend(zip(entries[::2], entries[1::2]))
        self.handle.block_status(length, offset, add)
        return found

    def error(self, action):
        """The errno with which an action must fail; the connection must be as good as before."""
        try:
            action()
        except nbd.Error as found:
            check(not self.handle.aio_is_dead() and not self.handle.aio_is_closed(), f"the connection ended: {found}")
            return found.errnum
        raise Failed("it did not fail")

    @staticmethod
    def is_disconnection(error):
        """Whether the connection went away, rather than a request being answered with an error."""
        return isinstance(error, nbd.Error) and error.errnum in (0, errno.ENOTCONN, errno.ECONNRESET, errno.EPIPE, None)


class Wire:
    """One connection over imaged's own socket, negotiated by hand: answers lie there until they are counted."""

    HAVE_OPTION, OPTION_REPLY, REQUEST = 0x49484156454f5054, 0x3e889045565a9, 0x25609513
    STRUCTURED_REPLY, SET_META_CONTEXT, GO, ACK = 8, 10, 7, 1
    READ, WRITE, MAP = 0, 1, 7

    def __init__(self, place, device):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(f"{place.run_dir}/nbd")
        self._take(18)
        self.socket.sendall(struct.pack(">I", 3))  # fixed newstyle, no zeroes
        self._choose(self.STRUCTURED_REPLY, b"")
        name, context = (struct.pack(">I", len(text)) + text for text in (device.encode(), b"base:allocation"))
        self._choose(self.SET_META_CONTEXT, name + struct.pack(">I", 1) + context)
        self._choose(self.GO, name + struct.pack(">H", 0))

    def _take(self, length):
        taken = b""
        while len(taken) < length:
            piece = self.socket.recv(length - len(taken))
            check(piece, "the connection ended")
            taken += piece
        return taken

    def _choose(self, option, content):
        self.socket.sendall(struct.pack(">QII", self.HAVE_OPTION, option, len(content)) + content)
        kind = None
        while kind != self.ACK:
            magic, _, kind, length = struct.unpack(">QIII", self._take(20))
            check(magic == self.OPTION_REPLY and kind < 1 << 31, f"option {option} was answered with {kind:#x}")
            self._take(length)

    def ask(self, count=1, length=1, kind=READ):
        """So many requests for the first bytes, whose answers nobody takes."""
        self.socket.sendall(struct.pack(">IHHQQI", self.REQUEST, 0, kind, 1, 0, length) * count)

    def arrived(self):
        """How many bytes of answers wait to be taken."""
        return struct.unpack("i", fcntl.ioctl(self.socket, termios.FIONREAD, b"1234"))[0]

    def close(self):
        self.socket.close()


def statuses_of(guest):
    """The whole map, neighbours merged: [(offset, length, type)]."""
    found, offset = [], 0
    while offset < guest.size:
        for length, kind in guest.status(min(0xffffffff, guest.size - offset), offset):
            if found and found[-1][2] == kind:
                found[-1] = (found[-1][0], found[-1][1] + length, kind)
            else:
                found.append((offset, length, kind))
            offset += length
    return found


def refused_to_connect(where, name):
    """No export of that name is served there (a name as it is, without a URI's escapes)."""
    if nbd is None:
        raise Skip("python3-libnbd is not installed")
    handle = nbd.NBD()
    handle.set_export_name(name)
    try:
        handle.connect_unix(where.split("socket=")[1])
    except nbd.Error:
        return
    raise Failed(f"'{name}' is served")
