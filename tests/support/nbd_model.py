# SPDX-License-Identifier: Apache-2.0
"""What a block device must read as, byte for byte: the model that guests' reads are compared with.

Where the answer is open (the rest of a discarded cluster, a request that was in flight when the server died) a sector of 512 bytes
has several candidates.  A read must return one of them, and from then on only those that it did not rule out remain: a device may
choose, but not change its mind."""

from harness import Failed, check_equal

SECTOR = 512


class Model:
    """`content` is a bytearray, changed by what clients were answered for; `maybe` maps a sector to its candidates."""

    def __init__(self, content, explain=None):
        self.content = bytearray(content)
        self.size = len(self.content)
        self.maybe = {}
        self.explain = explain or (lambda offset, found: "")

    def write(self, offset, data):
        """These bytes are there for certain."""
        self._change_candidates(offset, data, certain=True)
        self.content[offset:offset + len(data)] = data

    def perhaps(self, offset, data):
        """Each sector has these bytes or what it had."""
        self._change_candidates(offset, data, certain=False)

    def trim(self, offset, length, cluster, certain=True):
        """Whole clusters read as zeroes; the rest before and behind them, and the end of the device, may stay."""
        first = -(-offset // cluster) * cluster
        end = (offset + length) // cluster * cluster
        if not certain or end <= first:
            self.perhaps(offset, bytes(length))
            return
        self.perhaps(offset, bytes(first - offset))
        self.write(first, bytes(end - first))
        self.perhaps(end, bytes(offset + length - end))

    def check(self, offset, data, what):
        """A read returned `data`; fails with the first difference."""
        if not self._open_sectors(offset, len(data)):
            if self.content[offset:offset + len(data)] != data:
                self._fail(offset, data, what)
            return
        for sector in self._sectors(offset, len(data)):
            start, end = self._overlap(sector, offset, len(data))
            found = data[start - offset:end - offset]
            if sector not in self.maybe:
                if self.content[start:end] != found:
                    self._fail(offset, data, what)
                continue
            at = sector * SECTOR
            left = [one for one in self.maybe[sector] if one[start - at:end - at] == found]
            if not left:
                self._fail(start, found, f"{what}, sector with {len(self.maybe[sector])} candidates")
            self._settle(sector, left)

    def check_racing(self, offset, data, before, racers, what):
        """A read that writes overlapped: each byte is what it was, or what one of them writes.  (Finer than a sector: a read and a
        write of one page of the page cache may meet in its middle.)  `before`: what `snapshot` said when the read began; racers:
        [(offset, data)].  Settles nothing."""
        if data == before[0] and not before[1]:
            return
        allowed = [before[0], *before[1]]
        for start, written in racers:
            first, end = max(start, offset), min(start + len(written), offset + len(data))
            changed = bytearray(before[0])
            changed[first - offset:end - offset] = written[first - start:end - start]
            allowed.append(bytes(changed))
        if data in allowed:
            return
        for at in range(0, len(data), SECTOR):
            piece = data[at:at + SECTOR]
            options = [one[at:at + SECTOR] for one in allowed]
            if piece in options:
                continue
            for place, byte in enumerate(piece):
                if not any(one[place] == byte for one in options):
                    self._fail(offset + at, piece, f"{what}, {len(racers)} writes in flight")

    def snapshot(self, offset, length):
        """The bytes there, and the alternatives to them."""
        here = bytes(self.content[offset:offset + length])
        depth = max([len(self.maybe[sector]) for sector in self._open_sectors(offset, length)], default=0)
        others = []
        for number in range(depth):
            other = bytearray(here)
            for sector in self._open_sectors(offset, length):
                start, end = self._overlap(sector, offset, length)
                candidates = self.maybe[sector]
                chosen = candidates[min(number, len(candidates) - 1)]
                other[start - offset:end - offset] = chosen[start - sector * SECTOR:end - sector * SECTOR]
            others.append(bytes(other))
        return here, others

    def check_zero(self, offset, length, what):
        """The server says that this reads as zeroes."""
        self.check(offset, bytes(length), what)

    def check_file(self, path):
        """A raw file of the device's size with the device's content."""
        found = path.read_bytes()
        check_equal(len(found), self.size, f"size of {path.name}")
        self.check(0, found, f"the content of {path.name}")

    def _sectors(self, offset, length):
        return range(offset // SECTOR, (offset + length + SECTOR - 1) // SECTOR) if length else range(0)

    def _open_sectors(self, offset, length):
        if not self.maybe:
            return []
        sectors = self._sectors(offset, length)
        if len(sectors) < len(self.maybe):
            return [sector for sector in sectors if sector in self.maybe]
        return [sector for sector in self.maybe if sector in sectors]

    def _overlap(self, sector, offset, length):
        return max(sector * SECTOR, offset), min((sector + 1) * SECTOR, offset + length)

    def _change_candidates(self, offset, data, certain):
        sectors = self._open_sectors(offset, len(data)) if certain else self._sectors(offset, len(data))
        for sector in sectors:
            at = sector * SECTOR
            start, end = self._overlap(sector, offset, len(data))
            had = self.maybe.get(sector) or [bytes(self.content[at:min(at + SECTOR, self.size)])]
            piece = data[start - offset:end - offset]
            changed = [one[:start - at] + piece + one[end - at:] for one in had]
            self._settle(sector, list(dict.fromkeys(changed if certain else had + changed)))

    def _settle(self, sector, candidates):
        at = sector * SECTOR
        self.content[at:at + len(candidates[0])] = candidates[0]
        if len(candidates) == 1:
            self.maybe.pop(sector, None)
        else:
            self.maybe[sector] = candidates

    def _fail(self, offset, data, what):
        wanted = self.content[offset:offset + len(data)]
        wrong = [at for at in range(0, len(data), SECTOR) if data[at:at + SECTOR] != wanted[at:at + SECTOR]]
        first = next((at for at in range(len(data)) if data[at] != wanted[at]), 0)
        raise Failed(f"{what}: wrong from byte {offset + first} on ({len(wrong)} of {-(-len(data) // SECTOR)} sectors, to "
                     f"{offset + (wrong[-1] if wrong else 0) + SECTOR}); found {data[first:first + 16].hex()} there, wanted "
                     f"{wanted[first:first + 16].hex()}; {self.explain(offset + first, data[first:first + 16])}")
