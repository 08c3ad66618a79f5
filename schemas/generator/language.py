# SPDX-License-Identifier: Apache-2.0
"""Reads the TOML files into objects and refuses what README.md does not allow.

What the other modules get is complete and right: every type is resolved, every limit is a number, every example fits its fields.
Nothing here knows C, bytes or Markdown."""

import re
import tomllib
from dataclasses import dataclass, field as dataclass_field
from pathlib import Path

UINT_MAX = 2**63 - 1
UINT_HARD_MAX = 2**64 - 1
COUNTS_NAME_MAX = 64
LIST_ITEM_STR_MAX = 1023

# In this order a file may use the types of those before it.
FILES = ["errors", "types", "worker_broker", "imaged_broker", "client_broker", "events", "records", "envelope"]

SCALARS = {"uint", "bool", "str", "bin", "any", "counts"}
FIELD_KEYS = {"name", "type", "about", "optional", "list", "max", "min", "pattern"}
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*\Z")
NAME_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9._-]*\Z")


class SchemaError(Exception):
    pass


@dataclass
class Enum:
    name: str
    about: str
    values: list  # of (name, about)
    file: str


@dataclass
class Field:
    name: str
    kind: str  # one of SCALARS, "enum" or "struct"
    about: str
    optional: bool = False
    is_list: bool = False
    minimum: int = 0
    maximum: int = 0  # greatest value of a uint, bytes of a str or bin
    count_max: int = 0  # entries of a list or of counts
    pattern: str = ""
    type: object = None  # the Enum or Struct


@dataclass
class Struct:
    """Everything with fields: shared structs, messages, arguments, data of events, records."""

    name: str
    kind: str  # struct, message, command, event, record
    about: str
    fields: list
    file: str
    example: dict = None
    sender: str = ""  # message: who says it
    durable: bool = False  # event
    key: str = ""  # record
    returns: object = None  # command: None (empty) or a Struct
    returns_list: bool = False
    errors: list = dataclass_field(default_factory=list)
    events: list = dataclass_field(default_factory=list)


@dataclass
class File:
    name: str
    about: str = ""
    grammar: str = ""
    peers: list = dataclass_field(default_factory=list)
    enums: list = dataclass_field(default_factory=list)
    structs: list = dataclass_field(default_factory=list)  # of every kind, in the order of the file
    uses: set = dataclass_field(default_factory=set)  # files whose types it uses

    def of_kind(self, kind):
        return [s for s in self.structs if s.kind == kind]


@dataclass
class Schemas:
    files: list
    types: dict  # name -> Enum or Struct

    def of_kind(self, kind):
        return [s for f in self.files for s in f.of_kind(kind)]


def load(folder):
    schemas = Schemas([], {})
    for name in FILES:
        path = Path(folder) / f"{name}.toml"
        with open(path, "rb") as stream:
            try:
                schemas.files.append(_read_file(schemas, name, tomllib.load(stream)))
            except (SchemaError, KeyError, tomllib.TOMLDecodeError) as error:
                raise SchemaError(f"{path}: {error}") from error
    for struct in (s for f in schemas.files for s in f.structs):
        _check_references(schemas, struct)
    return schemas


def _read_file(schemas, name, table):
    file = File(name)
    unknown = set(table) - {"conversation", "errors", "enum", "struct", "message", "command", "event", "record"}
    if unknown:
        raise SchemaError(f"unknown table {sorted(unknown)}")
    if "conversation" in table:
        conversation = table["conversation"]
        if conversation["name"] != name:
            raise SchemaError(f"conversation is called {conversation['name']}")
        file.about, file.grammar = conversation["about"], conversation["grammar"].strip("\n")
        file.peers = conversation["peers"]
    if "errors" in table:
        _add_enum(schemas, file, "error_class", {"about": "A class of errors.", **table["errors"]})
    for enum_name, enum in table.get("enum", {}).items():
        _add_enum(schemas, file, enum_name, enum)
    for kind in ("struct", "message", "command", "event", "record"):
        for struct_name, struct in table.get(kind, {}).items():
            try:
                _add_struct(schemas, file, kind, struct_name, struct)
            except (SchemaError, KeyError) as error:
                raise SchemaError(f"{kind} {struct_name}: {error}") from error
    return file


def _add_type(schemas, name, new):
    if not NAME.match(name) or name in SCALARS or name in schemas.types:
        raise SchemaError(f"the name {name} is bad or taken")
    schemas.types[name] = new


def _add_enum(schemas, file, name, table):
    values = [(value["name"], value["about"]) for value in table["values"]]
    if not values or len(values) != len(dict(values)):
        raise SchemaError(f"enum {name}: no values, or one of them twice")
    enum = Enum(name, table["about"], values, file.name)
    _add_type(schemas, name, enum)
    file.enums.append(enum)


STRUCT_KEYS = {
    "struct": {"about", "fields"},
    "message": {"about", "fields", "from", "example"},
    "command": {"about", "arguments", "returns", "errors", "events", "example"},
    "event": {"about", "fields", "durable", "example"},
    "record": {"about", "fields", "key", "example"},
}


def _add_struct(schemas, file, kind, name, table):
    if set(table) != STRUCT_KEYS[kind]:
        raise SchemaError(f"has {sorted(table)}, should have {sorted(STRUCT_KEYS[kind])}")
    if any(s.kind == kind and s.name == name for s in schemas.of_kind(kind) + file.structs):
        raise SchemaError("is there twice")
    fields = [_read_field(schemas, file, f) for f in table["arguments" if kind == "command" else "fields"]]
    if len(fields) != len({c_identifier(f.name) for f in fields}):
        raise SchemaError("has a field twice")
    struct = Struct(name, kind, table["about"], fields, file.name, example=table.get("example"))
    struct.sender = table.get("from", "")
    struct.durable = table.get("durable", False)
    struct.key = table.get("key", "")
    struct.errors, struct.events = table.get("errors", []), table.get("events", [])
    if kind == "struct":
        _add_type(schemas, name, struct)
    elif not NAME.match(name):
        raise SchemaError("bad name")
    if kind == "message":
        if struct.sender not in file.peers:
            raise SchemaError(f"is from {struct.sender}, who does not take part")
        if any(f.name == "type" for f in fields):
            raise SchemaError("a message's type is its name, it can't have a field of that name")
    if kind == "command":
        _read_returns(schemas, file, struct, table["returns"])
        check_value(struct, table["example"]["arguments"], "example")
        _check_return(struct, table["example"]["return"])
    elif kind != "struct":
        check_value(struct, table["example"], "example")
    file.structs.append(struct)


def _read_returns(schemas, file, struct, returns):
    if returns == "empty":
        return
    struct.returns_list = isinstance(returns, dict)
    name = returns["list"] if struct.returns_list else returns
    struct.returns = _find_type(schemas, file, name)
    if not isinstance(struct.returns, Struct):
        raise SchemaError(f"returns {name}, which is no struct")


def _find_type(schemas, file, name):
    found = schemas.types.get(name)
    if found is None:
        raise SchemaError(f"type {name} is unknown (or comes later)")
    if found.file != file.name:
        file.uses.add(found.file)
    return found


def _read_field(schemas, file, table):
    if not NAME.match(table.get("name", "")):
        raise SchemaError(f"a field without a good name: {table}")
    unknown = set(table) - FIELD_KEYS
    if unknown:
        raise SchemaError(f"field {table['name']}: {sorted(unknown)} is not in the language")
    field = Field(table["name"], table["type"], table["about"])
    field.optional, field.is_list = table.get("optional", False), table.get("list", False)
    field.pattern, field.minimum = table.get("pattern", ""), table.get("min", 0)
    if field.kind not in SCALARS:
        field.type = _find_type(schemas, file, field.kind)
        field.kind = "enum" if isinstance(field.type, Enum) else "struct"
    counted = field.is_list or field.kind == "counts"
    if field.is_list and field.kind in ("bool", "bin", "counts"):
        raise SchemaError(f"field {field.name}: lists of {field.kind} are not in the language")
    if (counted or field.kind in ("str", "bin")) and "max" not in table:
        raise SchemaError(f"field {field.name} needs a max")
    if field.pattern not in ("", "name") or (field.pattern and field.kind != "str"):
        raise SchemaError(f"field {field.name}: pattern {field.pattern}")
    if counted:
        field.count_max = table["max"]
        field.maximum = {"uint": UINT_MAX, "str": LIST_ITEM_STR_MAX, "counts": UINT_MAX}.get(field.kind, 0)
    else:
        field.maximum = table.get("max", UINT_MAX if field.kind == "uint" else 0)
        field.maximum = UINT_HARD_MAX if field.maximum == "2^64-1" else field.maximum
    if not 0 <= field.minimum <= max(field.maximum, 0) <= UINT_HARD_MAX and field.kind in ("uint", "str", "bin"):
        raise SchemaError(f"field {field.name}: min {field.minimum}, max {field.maximum}")
    return field


def _check_references(schemas, struct):
    classes = {name for name, _ in schemas.types["error_class"].values}
    events = {s.name for s in schemas.of_kind("event")}
    for wrong in (set(struct.errors) - classes) | (set(struct.events) - events):
        raise SchemaError(f"{struct.file}: {struct.name} names {wrong}, which is not defined")


# ---------------------------------------------------------------- values


def check_value(struct, value, where):
    """Raises where `value` (a dict) is not what the fields of `struct` allow."""
    names = {f.name for f in struct.fields}
    for key in value:
        if key not in names:
            raise SchemaError(f"{where}: '{key}' is unknown")
    for field in struct.fields:
        if field.name in value:
            _check_field(field, value[field.name], f"{where}.{field.name}")
        elif not field.optional:
            raise SchemaError(f"{where}: '{field.name}' is missing")


def _check_field(field, value, where):
    if field.is_list:
        if not isinstance(value, list) or len(value) > field.count_max:
            raise SchemaError(f"{where} must be a list of at most {field.count_max}")
        for i, item in enumerate(value):
            _check_single(field, item, f"{where}[{i}]")
    else:
        _check_single(field, value, where)


def _check_single(field, value, where):
    def is_uint(number, low, high):
        return isinstance(number, int) and not isinstance(number, bool) and low <= number <= high

    if field.kind == "struct":
        if not isinstance(value, dict):
            raise SchemaError(f"{where} must be a map")
        check_value(field.type, value, where)
        return
    good = {
        "uint": lambda: is_uint(value, field.minimum, field.maximum),
        "bool": lambda: isinstance(value, bool),
        "str": lambda: isinstance(value, str)
        and field.minimum <= len(value.encode()) <= field.maximum
        and "\0" not in value
        and (not field.pattern or NAME_PATTERN.match(value)),
        "bin": lambda: isinstance(value, (str, bytes)) and len(value) <= field.maximum,
        "any": lambda: True,
        "counts": lambda: isinstance(value, dict)
        and len(value) <= field.count_max
        and all(is_uint(v, 0, UINT_MAX) for v in value.values()),
        "enum": lambda: value in dict(field.type.values),
    }[field.kind]()
    if not good:
        raise SchemaError(f"{where} can't be {value!r}")


def _check_return(struct, value):
    if struct.returns is None:
        if value != {}:
            raise SchemaError("example.return must be {}")
    elif struct.returns_list:
        for item in value:
            check_value(struct.returns, item, "example.return")
    else:
        check_value(struct.returns, value, "example.return")


# ---------------------------------------------------------------- names

# Words of the wire that C or its headers have taken.
TAKEN_IN_C = {"errno": "errno_name", "return": "returned"}


def c_identifier(name):
    return TAKEN_IN_C.get(name, name.replace("-", "_"))


def c_constant(name):
    """GenericError and no-worker become GENERIC_ERROR and NO_WORKER."""
    if not name.isupper():
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return name.replace("-", "_").upper()
