# SPDX-License-Identifier: Apache-2.0
"""Power cuts, replayed: from the record of a process's writes (kill_after.c) the states that a disk may be in, and from the journal of
its guests (guest/journal.h) what each sector may hold then.

A write is safe when a flush that began after it has ended.  Of the others any may have reached the disk: whole, in part, or not at all,
sector by sector.  A sector goes out as the page cache had it, so with what earlier writes of less than a sector left there."""
import struct

from engine_judge import Wrong

SECTOR = 512
# What nobody may rely on: in space that was only allocated.
GARBAGE = b"\xff"


def read_calls(path):
    """[(what, offset, length, bytes)] of the calls."""
    return [call[:4] for call in read_calls_with_ends(path)]


def read_calls_with_ends(path):
    """The same, with where in the record each ends.  Of a process that one thread killed while another wrote its record, the last one may
    be cut short: then it is left out, as others are that were not begun."""
    calls = []
    log = path.read_bytes()
    at = 0
    while at + 17 <= len(log):
        what = chr(log[at])
        offset, length = struct.unpack_from("=QQ", log, at + 1)
        at += 17
        content = b""
        if what == "w":
            content = log[at:at + length]
            at += length
            if at > len(log):
                break
        calls.append((what, offset, length, content, at))
    return calls


class Image:
    """A file in memory."""

    def __init__(self, content):
        self.bytes = bytearray(content)

    def reach(self, end, filling=b"\0"):
        if end > len(self.bytes):
            self.bytes += filling * (end - len(self.bytes))

    def write(self, offset, content):
        self.reach(offset)
        self.bytes[offset:offset + len(content)] = content

    def apply(self, call, survives=lambda: True):
        """A call whose write is of whole sectors; of a write, only the sectors that survive."""
        what, offset, length, content = call
        if what == "w":
            for at in range(0, len(content), SECTOR):
                if survives():
                    self.write(offset + at, content[at:at + SECTOR])
        elif what == "a" and survives():
            self.reach(offset + length, GARBAGE)
        elif what == "t" and survives():
            self.reach(offset)
            del self.bytes[offset:]
        elif what == "p" and survives():
            end = min(offset + length, len(self.bytes))
            self.bytes[offset:end] = bytes(max(0, end - offset))


def whole_sectors(calls, start):
    """The calls with each write widened to what the page cache held of its sectors."""
    cache = Image(start)
    widened = []
    for what, offset, length, content in calls:
        if what != "w":
            cache.apply((what, offset, length, content))
            widened.append((what, offset, length, content))
            continue
        cache.write(offset, content)
        first, end = offset // SECTOR * SECTOR, -(-(offset + length) // SECTOR) * SECTOR
        cache.reach(end)
        widened.append((what, first, end - first, bytes(cache.bytes[first:end])))
    return widened


class Recording:
    """The calls of one process on an image that began as `start`."""

    def __init__(self, path, start):
        calls = read_calls_with_ends(path)
        self.ends = [call[4] for call in calls]
        self.calls = whole_sectors([call[:4] for call in calls], start)
        self.start = start
        begun = {}
        # for each number of calls, how many of them are safe
        self.safe = [0]
        for number, (what, flush, _, _) in enumerate(self.calls):
            if what == "b":
                begun[flush] = number
            self.safe.append(max(self.safe[-1], begun[flush]) if what == "f" else self.safe[-1])
        self.durable = Image(start)
        self.applied = 0

    def flushes(self):
        return [number for number, call in enumerate(self.calls) if call[0] == "f"]

    def choose_cuts(self, draw, count):
        """Numbers of calls that have happened, ascending: most just before or after a flush, others anywhere."""
        edges = [number + after for number in self.flushes() for after in (0, 1)]
        chosen = [draw.choice(edges) if edges and draw.random() < 0.6 else draw.randrange(1, len(self.calls) + 1)
                  for _ in range(count)]
        return sorted(chosen)

    def cut(self, count, draw):
        """The image after a power cut when `count` calls had happened; counts only go up."""
        safe = self.safe[count]
        for call in self.calls[self.applied:safe]:
            self.durable.apply(call)
        self.applied = max(self.applied, safe)
        image = Image(self.durable.bytes)
        chance = draw.choice((0.0, 0.1, 0.5, 0.5, 0.9, 1.0))
        tears = draw.random() < 0.5
        for call in self.calls[self.applied:count]:
            fate = draw.random() < chance
            image.apply(call, (lambda: draw.random() < chance) if tears else (lambda fate=fate: fate))
        return image.bytes


class Change:
    def __init__(self, begun, position, offset, content):
        self.begun, self.position, self.offset, self.content = begun, position, offset, content
        self.answered = None  # number of the journal's line


class Journal:
    def __init__(self):
        self.changes, self.flushes = [], []  # flushes: (line where begun, position where answered)
        self.of_sector = {}

    def add(self, change):
        self.changes.append(change)
        for at in range(0, len(change.content), SECTOR):
            self.of_sector.setdefault((change.offset + at) // SECTOR, []).append(change)

    def promised_by(self, position):
        """The line before which everything that was answered is promised, after a power cut at that position."""
        return max((begun for begun, answered in self.flushes if answered <= position), default=-1)

    def may_hold(self, sector, position, promised, original):
        """What the sector may hold after a power cut at that position."""
        for change in reversed(self.of_sector.get(sector, ())):
            if change.position < position:
                at = sector * SECTOR - change.offset
                yield change.content[at:at + SECTOR]
                if change.answered is not None and change.answered < promised:
                    return
        yield original


def read_journal(path, until_mark=False):
    journal = Journal()
    open_requests = {}
    text = path.read_bytes()
    at = line = 0
    while at < len(text):
        what = chr(text[at])
        request, offset, length, position = struct.unpack_from("=QQQQ", text, at + 1)
        at += 33
        if what == "m" and until_mark:
            break
        if what == "w":
            open_requests[request] = Change(line, position, offset, text[at:at + length])
            journal.add(open_requests[request])
            at += length
        elif what == "f":
            open_requests[request] = line
        elif what == "d":
            asked = open_requests.pop(request)
            if isinstance(asked, Change):
                asked.answered = line
            else:
                journal.flushes.append((asked, position))
        line += 1
    return journal


def judge_dump(journal, original, dump, position=1 << 63):
    """The disk as it was read after a power cut at that position of the record of writes."""
    if len(dump) != len(original):
        raise Wrong(f"the disk has {len(dump)} bytes, not {len(original)}")
    promised = journal.promised_by(position)
    for sector in range(len(dump) // SECTOR):
        begin = sector * SECTOR
        found = dump[begin:begin + SECTOR]
        if found not in journal.may_hold(sector, position, promised, original[begin:begin + SECTOR]):
            changes = [(change.begun, change.answered, change.position) for change in journal.of_sector.get(sector, ())]
            raise Wrong(f"sector {sector} does not hold what was promised before line {promised}, position {position}; "
                        f"its changes (begun, answered, position): {changes}; found {found[:24].hex()}...")


def position_of(recording, count):
    return recording.ends[count - 1] if count else 0
