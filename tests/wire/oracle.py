#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The guard beside python3-msgpack and a second reading of the rules: on random and damaged messages both must agree.

    oracle.py JUDGE VECTORS.TXT [SEED [COUNT]]

What the guard accepts, Python's strict unpacker must accept too, and both must have read the same value.  What the guard refuses
must break one of the rules of schemas/wire.h, as they are written down here once more.  Exit status 77: no python3-msgpack."""

import json
import math
import random
import subprocess
import sys

try:
    import msgpack
except ImportError:
    print("skipped: python3-msgpack is not installed")
    sys.exit(77)

DEPTH_MAX, OBJECTS_MAX, KEYS_MAX = 16, 16384, 256


class Refused(Exception):
    pass


def python_reads(raw):
    """The value, with maps as lists of pairs, so that keys that come twice are seen."""

    def pairs(items):
        keys = [key for key, _ in items]
        if not all(isinstance(key, str) for key in keys):
            raise Refused("key that is no str")
        if len(set(keys)) != len(keys) or len(keys) > KEYS_MAX:
            raise Refused("keys")
        return dict(items)

    def extension(code, raw):
        raise Refused("extension")

    try:
        value = msgpack.unpackb(
            raw, raw=False, strict_map_key=False, object_pairs_hook=pairs, ext_hook=extension, timestamp=0
        )
    except Refused:
        raise
    except Exception as error:  # its exceptions have no common class
        raise Refused(repr(error)) from error
    if any(isinstance(v, msgpack.Timestamp) for v in walk(value)):
        raise Refused("extension")
    if depth(value) > DEPTH_MAX or sum(1 for _ in walk(value)) > OBJECTS_MAX:
        raise Refused("limits")
    return value


def walk(value):
    yield value
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item)


def depth(value):
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(depth, inside), default=0)


def as_json(value):
    """What JSON can hold of it, as schemas/wire.h says."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def random_value(rng, level=0):
    kind = rng.randrange(12 if level < 5 else 9)
    if kind < 3:
        return rng.choice([0, 1, -1, 127, 128, -32, -33, 2**16, 2**32, 2**63, 2**64 - 1, -(2**63), rng.getrandbits(40)])
    if kind < 5:
        return rng.choice(["", "a", "device", "ü€😀", "x" * rng.randrange(40), "\0", "\ud7ff"])
    if kind == 5:
        return rng.randbytes(rng.randrange(8))
    if kind < 9:
        return rng.choice([None, True, False, 1.5, -0.0, math.inf, math.nan])
    if kind == 9:
        return [random_value(rng, level + 1) for _ in range(rng.randrange(6))]
    keys = rng.sample(["a", "b", "c", "d", "device", "type", "ä", ""], rng.randrange(6))
    return {key: random_value(rng, level + 1) for key in keys}


def damaged(rng, raw):
    raw = bytearray(raw)
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(raw) + 1)
        change = rng.randrange(4)
        if change == 0 and at < len(raw):
            raw[at] = rng.randrange(256)
        elif change == 1:
            raw[at:at] = rng.randbytes(rng.randrange(1, 4))
        elif change == 2:
            del raw[at : at + rng.randrange(1, 4)]
        elif change == 3:
            raw[at:at] = raw[at : at + rng.randrange(1, 8)]
    return bytes(raw)


def same(ours, theirs):
    return json.dumps(ours, sort_keys=True) == json.dumps(theirs, sort_keys=True)


def main():
    judge, vectors = sys.argv[1:3]
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    count = int(sys.argv[4]) if len(sys.argv) > 4 else 60000
    rng = random.Random(seed)
    with open(vectors, encoding="utf-8") as lines:
        good = [bytes.fromhex(line.split("\t")[3]) for line in lines if line.startswith("good")]
    messages = good[:]
    while len(messages) < count:
        base = rng.choice(good) if rng.random() < 0.5 else msgpack.packb(random_value(rng))
        messages.append(damaged(rng, base))
    answers = subprocess.run(
        [judge], input="".join(f"{m.hex()}\n" for m in messages), stdout=subprocess.PIPE, encoding="utf-8", check=True
    ).stdout.split("\n")
    accepted = 0
    for raw, answer in zip(messages, answers, strict=False):
        verdict, _, text = answer.partition(" ")
        try:
            value, refusal = python_reads(raw), None
        except Refused as error:
            refusal = error
        if (verdict == "yes") != (refusal is None):
            sys.exit(f"seed {seed}: {raw.hex()}: the guard says '{answer}', Python says {refusal!r}")
        if refusal is None:
            accepted += 1
            if not same(json.loads(text), as_json(value)):
                sys.exit(f"seed {seed}: {raw.hex()}: the guard read {text}, Python {value!r}")
    print(f"{len(messages)} messages, {accepted} accepted, all judged alike")


if __name__ == "__main__":
    main()
