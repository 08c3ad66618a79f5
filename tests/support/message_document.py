# SPDX-License-Identifier: Apache-2.0
"""docs/messages.md, read by a test as a client's author would read it: tables of fields, values, examples.

A value fits a type of the document or it does not; nothing of the schemas is used."""

import json
import pathlib
import re

from harness import Failed

PATH = pathlib.Path(__file__).resolve().parents[2] / "docs" / "messages.md"
LINK = re.compile(r"\[([a-z_]+)\]\(#")
UINT_MAX = (1 << 63) - 1


class Section:
    """What stands under one heading."""

    def __init__(self, name):
        self.name = name
        self.fields = {}  # of a return value or an event: name -> (optional, type)
        self.arguments = {}
        self.values = set()
        self.returns = None
        self.errors = set()
        self.requests, self.answers = [], []

    def read(self, line, header):
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        name = cells[0].split("`")[1]
        if header == "field":
            self.fields[name] = ("*optional*" in cells[0], cells[1])
        elif header == "argument":
            self.arguments[name] = ("*optional*" in cells[0], cells[1])
        elif header in ("value", "class"):
            self.values.add(name)


class Document:
    def __init__(self, path=PATH):
        self.sections = {}
        self.commands = []
        self.events = []
        section = chapter = header = None
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("## "):
                chapter = line[3:]
            elif line.startswith("###"):
                section = self.sections.setdefault(line.lstrip("# "), Section(line.lstrip("# ")))
            elif line.startswith("| `"):
                section.read(line, header)
            elif line.startswith("| ") and not line.startswith("| ---"):
                header = line.split("|")[1].strip()
            elif line.startswith("Returns: "):
                section.returns = line[9:].rstrip(".")
                self.commands.append(section)
            elif line.startswith("Errors: "):
                section.errors = set(re.findall(r"`(\w+)`", line))
            elif line.startswith("-> "):
                section.requests.append(json.loads(line[3:]))
            elif line.startswith("<- ") and line[3] != "{":
                self.events.append(section)
                section.topic = line[3:]
            elif line.startswith("<- "):
                section.answers.append(json.loads(line[3:]))
        if not self.commands or not self.events or chapter is None:
            raise Failed(f"{path} is not understood")

    def check(self, value, kind, where):
        """Fails unless the value is of that type of the document."""
        if kind.startswith("a list of ") or kind.startswith("list of "):
            if not isinstance(value, list):
                raise Failed(f"{where}: {value!r} is no list")
            for number, one in enumerate(value):
                self.check(one, kind.split("list of ", 1)[1], f"{where}[{number}]")
        elif LINK.match(kind):
            self.check_section(value, self.sections[LINK.match(kind).group(1)], where)
        elif not self.fits(value, kind):
            raise Failed(f"{where}: {value!r} is no {kind}")

    def check_section(self, value, section, where):
        if section.values:
            if value not in section.values:
                raise Failed(f"{where}: {value!r} is none of {sorted(section.values)}")
            return
        if not isinstance(value, dict):
            raise Failed(f"{where}: {value!r} is no map")
        for name, (optional, kind) in section.fields.items():
            if name in value:
                self.check(value[name], kind, f"{where}.{name}")
            elif not optional:
                raise Failed(f"{where}: there is no {name} in {value}")
        strange = set(value) - set(section.fields)
        if strange:
            raise Failed(f"{where}: {sorted(strange)} are not in the document")

    @staticmethod
    def fits(value, kind):
        word = kind.split(",")[0].split(" ")[0]
        limit = re.search(r"at most ([\d,]+) bytes", kind)
        most = int(limit.group(1).replace(",", "")) if limit else None
        if word == "uint":
            return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= UINT_MAX
        if word in ("str", "name"):
            return isinstance(value, str) and (most is None or len(value.encode()) <= most)
        if word == "bool":
            return isinstance(value, bool)
        if word == "map":
            return isinstance(value, dict) and all(isinstance(one, str) for one in value)
        return word == "any" or (kind == "`{}`" and value == {})

    def check_event(self, topic, event):
        """An event as it comes: topic, envelope, data."""
        section = self.sections.get(event["event"])
        if section not in self.events:
            raise Failed(f"{event['event']} is not in the document")
        self.check_section(event, self.sections["event_envelope"], event["event"])
        self.check_section(event["data"], section, f"{event['event']}.data")
        wanted = f"{event['event']}/{event['data'].get('device', '')}/"
        if topic is not None and topic != wanted:
            raise Failed(f"the topic is {topic}, wanted {wanted}")


def same_shape(example, value, where):
    """Every key of the example is in the value with the same type; lists by their first element."""
    if isinstance(example, bool) or isinstance(value, bool) or not isinstance(example, (dict, list)):
        if type(example) is not type(value):
            raise Failed(f"{where}: the document shows {example!r}, there is {value!r}")
    elif type(example) is not type(value):
        raise Failed(f"{where}: the document shows {example!r}, there is {value!r}")
    elif isinstance(example, dict):
        for name, one in example.items():
            if name not in value:
                raise Failed(f"{where}: the document shows {name}, it is not in {value}")
            same_shape(one, value[name], f"{where}.{name}")
    elif example and value:
        for number, one in enumerate(value):
            shared = {name: part for name, part in example[0].items() if name in one} if isinstance(one, dict) else example[0]
            same_shape(shared, one, f"{where}[{number}]")
