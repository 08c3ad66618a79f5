# SPDX-License-Identifier: Apache-2.0
"""docs/messages.md: every message that a socket or the store can hold, and for each command what a user needs."""

import json

from .language import UINT_HARD_MAX, UINT_MAX
from .vectors import as_json, wire_value

HEAD = """\
# Messages

<!-- Made by schemas/generate.py from schemas/*.toml: change those, then run `schemas/generate.py --docs docs/messages.md`. -->

Everything on Sluice's sockets is [msgpack](https://msgpack.org); here it is written as JSON. Commands, events and errors are
the public contract. The conversations of workers and imageds, and the store's records, are internal: they may change with any
release, and both ends are always of one release.

A `uint` is 0 to 2^63-1 unless the table says otherwise. A `str` is UTF-8 without NUL; its limit counts bytes. A *name* is a letter, then
letters, digits, `-`, `.`, `_`. Fields marked *optional* may be absent.
"""

EXAMPLE_SEQ = 12  # a reply's seq depends on the broker's life


def generate(schemas):
    by_name = {file.name: file for file in schemas.files}
    parts = [HEAD, contents(by_name), errors(schemas)]
    parts.append(chapter("Requests and replies", by_name["client_broker"]))
    parts.append(types(by_name["envelope"], 3))
    parts.append("## Commands\n")
    parts += [command(c) for c in schemas.of_kind("command")]
    parts.append("### What commands return\n")
    parts.append(types(by_name["client_broker"], 4))
    parts.append(chapter("Events", by_name["events"]))
    parts += [event(e) for e in schemas.of_kind("event")]
    parts.append(types(by_name["events"], 3))
    for name, title in (("worker_broker", "Worker and broker"), ("imaged_broker", "imaged and broker")):
        parts.append(chapter(title, by_name[name]))
        parts += [message(m, by_name[name]) for m in by_name[name].of_kind("message")]
        parts.append(types(by_name[name], 3))
    parts.append("## Shared types\n")
    parts.append(types(by_name["types"], 3))
    parts.append(chapter("The store", by_name["records"]))
    parts += [record(r) for r in schemas.of_kind("record")]
    parts.append(types(by_name["records"], 3))
    return "\n".join(part for part in parts if part)


def contents(by_name):
    titles = ["Errors", "Requests and replies", "Commands", "Events", "Worker and broker"]
    titles += ["imaged and broker", "Shared types", "The store"]
    links = ", ".join(f"[{title}](#{title.lower().replace(' ', '-')})" for title in titles)
    commands = " ".join(f"[`{c.name}`](#{c.name.lower()})" for c in by_name["client_broker"].of_kind("command"))
    return f"Contents: {links}.\n\nCommands: {commands}\n"


def flat(text):
    return " ".join(text.split())


def cell(text):
    return flat(text).replace("|", "\\|")


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(cell(c) for c in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def type_text(field):
    if field.kind in ("struct", "enum"):
        text = f"[{field.type.name}](#{field.type.name})"
    elif field.pattern:
        text = f"name, at most {field.maximum} bytes"
    elif field.kind in ("str", "bin") and not field.is_list:
        text = f"{field.kind}, {f'{field.minimum} to' if field.minimum else 'at most'} {field.maximum:,} bytes"
    elif field.kind == "uint" and (field.minimum or field.maximum < UINT_MAX):
        text = f"uint, {field.minimum:,} to {field.maximum:,}"
    elif field.kind == "uint" and field.maximum == UINT_HARD_MAX:
        text = "uint of 64 bits"
    elif field.kind == "counts":
        return f"map of str to uint, at most {field.count_max:,} entries"
    else:
        text = field.kind
    if field.is_list:
        text = f"list of {text}, at most {field.count_max:,}"
    return text


def fields(struct, head="field"):
    if not struct.fields:
        return f"No {head}s.\n"
    rows = [
        (f"`{f.name}`" + (" *optional*" if f.optional else ""), type_text(f), f.about) for f in struct.fields
    ]
    return table((head, "type", "meaning"), rows)


def json_block(*lines):
    return "```\n" + "\n".join(lines) + "\n```\n"


def chapter(title, file):
    grammar = f"\n```\n{file.grammar}\n```\n" if file.grammar else ""
    return f"## {title}\n\n{flat(file.about)}\n{grammar}"


def errors(schemas):
    rows = [(f"`{name}`", about) for name, about in schemas.types["error_class"].values]
    return "## Errors\n\n### error_class\n\n" + table(("class", "when"), rows)


def types(file, level):
    text = ""
    for struct in file.of_kind("struct"):
        text += f"{'#' * level} {struct.name}\n\n{flat(struct.about)}\n\n{fields(struct)}\n"
    for enum in file.enums:
        rows = [(f"`{name}`", about) for name, about in enum.values]
        text += f"{'#' * level} {enum.name}\n\n{flat(enum.about)}\n\n{table(('value', 'meaning'), rows)}\n"
    return text.rstrip("\n") + "\n" if text else ""


def returned(struct):
    if struct.returns is None:
        return "`{}`"
    link = f"[{struct.returns.name}](#{struct.returns.name})"
    return f"a list of {link}" if struct.returns_list else link


def example_of(struct):
    """What examples.json and the docs show of a command."""
    arguments = wire_value(struct, struct.example["arguments"])
    request = {"execute": struct.name, **({"arguments": arguments} if arguments else {})}
    return {"request": request, "return": struct.example["return"]}


def command(struct):
    example = example_of(struct)
    named = [f"`{name}`" for name in struct.errors if name != "GenericError"]
    raised = [f"[`{name}`](#{name.lower()})" for name in struct.events]
    reply = {"return": example["return"], "seq": EXAMPLE_SEQ}
    return (
        f"### {struct.name}\n\n{flat(struct.about)}\n\n{fields(struct, 'argument')}\n"
        f"Returns: {returned(struct)}.\n\n"
        f"Errors: {', '.join(named + ['`GenericError`'])} (for arguments that are wrong).\n\n"
        f"Events: {', '.join(raised) if raised else 'none'}.\n\n"
        + json_block(f"-> {as_json(example['request'])}", f"<- {as_json(reply)}")
    )


def event(struct):
    kept = "Durable: it is in the log, with a `seq`." if struct.durable else "Not durable: it is told once."
    stamp = {"seconds": 1767323045, "microseconds": 678000}
    shown = {"event": struct.name, "data": wire_value(struct, struct.example), "timestamp": stamp}
    if struct.durable:
        shown.update({"seq": EXAMPLE_SEQ, "prev": 0})
    topic = f"{struct.name}/{struct.example.get('device', '')}/"
    return (
        f"### {struct.name}\n\n{flat(struct.about)} {kept}\n\n{fields(struct)}\n"
        + json_block(f"<- {topic}", f"<- {as_json(shown)}")
    )


def message(struct, file):
    receiver = next(p for p in file.peers if p != struct.sender)
    shown = {"type": struct.name, **wire_value(struct, struct.example)}
    return (
        f"### {struct.name}\n\nFrom {struct.sender} to {receiver}. {flat(struct.about)}\n\n{fields(struct)}\n"
        + json_block(as_json(shown))
    )


def record(struct):
    return (
        f"### {struct.name} (record)\n\n{flat(struct.about)} Key: {flat(struct.key)}.\n\n{fields(struct)}\n"
        + json_block(as_json(wire_value(struct, struct.example)))
    )


def examples_json(schemas):
    commands = [example_of(c) for c in schemas.of_kind("command")]
    return json.dumps(commands, indent=4, ensure_ascii=False) + "\n"
