# SPDX-License-Identifier: Apache-2.0
"""Test vectors: what must be read and come out again byte by byte, and what must be refused and why.

The bytes are packed here, by a second implementation of msgpack that shares nothing with the C one.  Good ones are the schema's
examples, the least that a schema allows, and everything at its limit; bad ones break each rule of each field once."""

import json
import struct

from . import c_code
from .language import UINT_HARD_MAX, SchemaError

STR_SHOWN_MAX = 70  # in `full` vectors, so that they stay small


def pack(value):
    if value is None:
        return b"\xc0"
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return pack_integer(value)
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, str):
        raw = value.encode()
        return pack_head(len(raw), 0xA0, 32, ((0xD9, "B"), (0xDA, "H"), (0xDB, "I"))) + raw
    if isinstance(value, bytes):
        return pack_head(len(value), 0, 0, ((0xC4, "B"), (0xC5, "H"), (0xC6, "I"))) + value
    if isinstance(value, list):
        return pack_head(len(value), 0x90, 16, ((0xDC, "H"), (0xDD, "I"))) + b"".join(map(pack, value))
    head = pack_head(len(value), 0x80, 16, ((0xDE, "H"), (0xDF, "I")))
    return head + b"".join(pack(k) + pack(v) for k, v in value.items())


def pack_integer(value):
    if 0 <= value < 128:
        return bytes([value])
    if -32 <= value < 0:
        return struct.pack(">b", value)
    widths = ((0xCC, "B"), (0xCD, "H"), (0xCE, "I"), (0xCF, "Q"))
    if value < 0:
        widths = ((0xD0, "b"), (0xD1, "h"), (0xD2, "i"), (0xD3, "q"))
    return pack_widths(value, widths)


def pack_head(count, fixed, fixed_end, widths):
    return bytes([fixed | count]) if count < fixed_end else pack_widths(count, widths)


def pack_widths(value, widths):
    for first, code in widths:
        try:
            return bytes([first]) + struct.pack(">" + code, value)
        except struct.error:
            continue
    raise SchemaError(f"{value} does not fit into msgpack")


# ---------------------------------------------------------------- values


def wire_value(struct_, value):
    """The dict as it is packed: in the order of the schema, bins as bytes."""
    ordered = {}
    for field in struct_.fields:
        if field.name in value:
            item = value[field.name]
            ordered[field.name] = [wire_single(field, i) for i in item] if field.is_list else wire_single(field, item)
    return ordered


def wire_single(field, value):
    if field.kind == "struct":
        return wire_value(field.type, value)
    if field.kind == "bin" and isinstance(value, str):
        return value.encode()
    return value


def least(struct_):
    return {f.name: [] if f.is_list else least_single(f) for f in struct_.fields if not f.optional}


def least_single(field):
    if field.kind == "struct":
        return least(field.type)
    return {
        "uint": field.minimum,
        "bool": False,
        "str": "a" * max(field.minimum, 1 if field.pattern else 0),
        "bin": b"\0" * field.minimum,
        "any": None,
        "counts": {},
        "enum": field.type and field.type.values[0][0] if field.kind == "enum" else None,
    }[field.kind]


def full(struct_):
    return {f.name: [full_single(f)] * min(2, f.count_max) if f.is_list else full_single(f) for f in struct_.fields}


def full_single(field):
    if field.kind == "struct":
        return full(field.type)
    length = min(field.maximum, STR_SHOWN_MAX)
    text = "a" * length if field.pattern or length < 8 else "ü€😀" + "\"\\\t" * 2 + "x" * (length - 15)
    return {
        "uint": field.maximum,
        "bool": True,
        "str": text[:length],
        "bin": bytes(range(min(field.maximum, 256))),
        "any": {"a": [1, -1, -200, 2**40, 1.5, None, True, "é", {"b": []}]},
        "counts": {"one": 1, "two": 2**40},
        "enum": field.type and field.kind == "enum" and field.type.values[-1][0],
    }[field.kind]


def as_json(value):
    return json.dumps(value, ensure_ascii=False, default=lambda raw: raw.hex())


# ---------------------------------------------------------------- wrong ones


def wrong_values(field):
    """[(what, value of the field, part of the sentence)]"""
    wrongs = []
    if field.is_list:
        item = wire_single(field, least_single(field))
        too_many = [item] * (field.count_max + 1)
        wrongs.append(("no list", {}, "must be a list"))
        if len(pack(too_many)) < 512 << 10:
            wrongs.append(("too many entries", too_many, f"must have at most {field.count_max} entries"))
        wrongs += [(f"entry {what}", [value], part) for what, value, part in wrong_singles(field)]
        return wrongs
    return wrong_singles(field)


def wrong_singles(field):
    wrong_type = {
        "uint": f"must be an integer from {field.minimum} to {field.maximum}",
        "bool": "must be true or false",
        "str": "must be a letter" if field.pattern else "must be a string",
        "bin": "must be a bin",
        "counts": "must be a map",
        "enum": "must be ",
        "struct": "must be a map",
    }
    if field.kind == "any":
        return []
    part = "must be a string" if field.kind == "str" else wrong_type[field.kind]
    wrongs = [("of another type", value, part) for value in (1.5, None, [1])]
    if field.kind == "uint":
        numbers = [-1, field.minimum - 1] + ([field.maximum + 1] if field.maximum < UINT_HARD_MAX else [])
        wrongs += [(f"{n}", n, part) for n in numbers]
    if field.kind == "str":
        wrongs.append(("too long", "a" * (field.maximum + 1), wrong_type["str"] if field.pattern else f"{field.maximum} bytes"))
        if field.pattern:
            wrongs += [(bad, bad, wrong_type["str"]) for bad in ("", "1a", "-a", "a b", "ä")]
        else:
            wrongs.append(("with a NUL", "a\0", "must not contain a NUL"))
        if field.minimum:
            wrongs.append(("too short", "a" * (field.minimum - 1), "bytes long"))
    if field.kind == "bin":
        wrongs.append(("too long", b"\0" * (field.maximum + 1), f"{field.maximum} bytes"))
    if field.kind == "counts":
        wrongs.append(("too many", {f"n{i}": 1 for i in range(min(field.count_max + 1, 256))}, "entries"))
        wrongs.append(("negative", {"a": -1}, "must be an integer"))
    if field.kind == "enum":
        wrongs += [("no such value", "no such value", part), ("number", 0, part)]
    if field.kind == "struct":
        wrongs += wrong_members(field.type)
    return wrongs


def wrong_members(struct_):
    """A member of a struct in a field: only what is missing; each struct has vectors of its own."""
    wrongs = []
    for member in struct_.fields:
        if not member.optional:
            value = wire_value(struct_, least(struct_))
            del value[member.name]
            wrongs.append((f"without {member.name}", value, f"{member.name}' is missing"))
    return wrongs


# ---------------------------------------------------------------- lines


def lines(schemas):
    """good|bad, name, codec, bytes in hexadecimal, JSON or part of the sentence; separated by tabs."""
    for file in schemas.files:
        for struct_ in file.structs:
            yield from struct_lines(file, struct_)


def struct_lines(file, struct_):
    name = c_code.c_name(struct_)
    codec, tag = name, {}
    if struct_.kind == "message":
        receiver = next(p for p in file.peers if p != struct_.sender)
        codec, tag = f"{struct_.sender}_to_{receiver}", {"type": struct_.name}

    def good(what, value):
        value = {**tag, **wire_value(struct_, value)}
        return "\t".join(("good", f"{name} {what}", codec, pack(value).hex(), as_json(value)))

    def bad(what, value, part):
        return "\t".join(("bad", f"{name} {what}", codec, pack(value).hex(), part))

    if struct_.kind == "command":
        yield good("example", struct_.example["arguments"])
        yield from return_lines(struct_)
    elif struct_.example is not None:
        yield good("example", struct_.example)
    yield good("least", least(struct_))
    yield good("full", full(struct_))
    yield bad("no map", [], "not a map")
    base = {**tag, **wire_value(struct_, full(struct_))}
    for field in struct_.fields:
        if not field.optional:
            yield bad(f"without {field.name}", {k: v for k, v in base.items() if k != field.name}, f"'{field.name}' is missing")
        for what, value, part in wrong_values(field):
            yield bad(f"{field.name} {what}", {**base, field.name: value}, part)
    if struct_.kind == "command":
        yield bad("unknown argument", {**base, "no-such": 1}, "argument 'no-such' is unknown")


def return_lines(struct_):
    if struct_.returns is None:
        return
    value = struct_.example["return"]
    value = [wire_value(struct_.returns, i) for i in value] if struct_.returns_list else wire_value(struct_.returns, value)
    name = f"{c_code.c_name(struct_)}_return"
    yield "\t".join(("good", f"{name} example", name, pack(value).hex(), as_json(value)))


# ---------------------------------------------------------------- C: codecs by name

ROUND_TRIP = """\
static int round_trip_{name}(const void *bytes, size_t length, struct wire_memory *memory, struct wire_buffer *buffer,
	struct err *err)
{{
	{declaration};
	int r = {decode}(bytes, length, memory, {arguments}, err);

	if (r == 0)
		{encode};
	return r;
}}

"""


def codecs_source(schemas):
    text = "/* SPDX-License-Identifier: Apache-2.0 */\n/* Made by schemas/generate.py for tests/wire. */\n"
    text += '#include "tests/wire/codecs.h"\n\n'
    text += "".join(f'#include "schemas/{file.name}.gen.h"\n' for file in schemas.files) + "\n"
    names = []
    for file in schemas.files:
        for name, code in round_trips(file):
            names.append(name)
            text += code
    text += "const struct tested_codec tested_codecs[] = {\n"
    text += "".join(f'\t{{ "{name}", round_trip_{name} }},\n' for name in names)
    return text + "};\nconst size_t tested_codecs_count = sizeof tested_codecs / sizeof tested_codecs[0];\n"


def round_trips(file):
    def single(name, kind, function, extra=""):
        return name, ROUND_TRIP.format(
            name=name,
            declaration=f"struct {kind} object",
            decode=f"{function}_decode",
            arguments=f"&object{extra}",
            encode=f"{function}_encode(&object, buffer)",
        )

    for sender, receiver, _ in c_code.directions(file):
        name = f"{sender}_to_{receiver}"
        yield single(name, name, name)
    for struct_ in file.structs:
        name = c_code.c_name(struct_)
        if struct_.kind != "message":
            yield single(name, name, name, ", NULL" if struct_.kind == "command" else "")
        if struct_.returns and not struct_.returns_list:
            yield single(f"{name}_return", c_code.c_name(struct_.returns), f"{name}_return")
        elif struct_.returns:
            yield f"{name}_return", ROUND_TRIP.format(
                name=f"{name}_return",
                declaration=f"struct {c_code.c_name(struct_.returns)} *items;\n\tsize_t count",
                decode=f"{name}_return_decode",
                arguments="&items, &count",
                encode=f"{name}_return_encode(items, count, buffer)",
            )
