# SPDX-License-Identifier: Apache-2.0
"""schema.lock: what was released, and how it was then.

A line is `kind name digest`.  The digest is of everything that a peer can notice: names, types, limits, order; not of words
for people.  An enum's line also counts its values: it may grow at its end.  A struct counts as part of whatever uses it."""

import hashlib
import json

from .language import Enum, SchemaError

RELEASED_KINDS = ("command", "event")  # locked by a bare --lock; others are locked by name


def definition(struct):
    return {
        "fields": [field_definition(field) for field in struct.fields],
        "from": struct.sender,
        "durable": struct.durable,
        "key": struct.key,
        "returns": struct.returns and [definition(struct.returns), struct.returns_list],
        "errors": sorted(struct.errors),
    }


def field_definition(field):
    inner = field.type
    if inner is not None:
        inner = inner.name if isinstance(inner, Enum) else definition(inner)
    limits = [field.minimum, field.maximum, field.count_max, field.pattern]
    return [field.name, field.kind, field.optional, field.is_list, limits, inner]


def digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def enum_digest(enum, count):
    return f"{count}:{digest([name for name, _ in enum.values[:count]])}"


def enums_of(struct):
    """Every enum that a struct reaches."""
    found = {}
    for field in struct.fields:
        if isinstance(field.type, Enum):
            found[field.type.name] = field.type
        elif field.type is not None:
            found.update(enums_of(field.type))
    if struct.returns is not None:
        found.update(enums_of(struct.returns))
    return found


def lockable(schemas):
    """{(kind, name): Struct or Enum}"""
    found = {(s.kind, s.name): s for f in schemas.files for s in f.structs if s.kind != "struct"}
    found.update({("enum", e.name): e for f in schemas.files for e in f.enums})
    return found


def read(path):
    locked = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            kind, name, old = line.split()
            locked[kind, name] = old
    return locked


def complaints(schemas, locked):
    present = lockable(schemas)
    for (kind, name), old in locked.items():
        thing = present.get((kind, name))
        if thing is None:
            yield f"{kind} {name} was released and is gone"
        elif kind == "enum" and enum_digest(thing, int(old.split(":")[0])) != old:
            yield f"enum {name} was released and its values changed; new ones go to the end"
        elif kind != "enum" and digest(definition(thing)) != old:
            yield f"{kind} {name} was released and changed; lock it anew only if no peer of an older release can meet it"


def check(schemas, path):
    found = list(complaints(schemas, read(path)))
    if found:
        raise SchemaError(f"{path.name}: " + "; ".join(found))


HEAD = """\
# What was released: kind, name, digest.  A change to one of these fails the build.
# generate.py --lock adds the commands and events that are new; --lock KIND/NAME adds or renews one of any kind.
"""


def write(schemas, path, names):
    """Adds what is new; renews what is named."""
    locked = read(path) if path.exists() else {}
    present = lockable(schemas)
    wanted = [key for key in present if key[0] in RELEASED_KINDS and key not in locked]
    for name in names:
        key = tuple(name.split("/", 1))
        if key not in present:
            raise SchemaError(f"{name} is not defined; write KIND/NAME")
        wanted.append(key)
    for key in wanted:
        thing = present[key]
        if isinstance(thing, Enum):
            locked[key] = enum_digest(thing, len(thing.values))
            continue
        locked[key] = digest(definition(thing))
        for enum in enums_of(thing).values():
            locked.setdefault(("enum", enum.name), enum_digest(enum, len(enum.values)))
    lines = [f"{kind} {name} {value}\n" for (kind, name), value in sorted(locked.items())]
    path.write_text(HEAD + "".join(lines))
