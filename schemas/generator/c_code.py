# SPDX-License-Identifier: Apache-2.0
"""Emits NAME.gen.h and NAME.gen.c: structs, tables that describe them, and thin typed functions around wire_table.h.

The generated code has no control flow of its own: what can go wrong goes wrong in wire*.c, which a person wrote."""

from .language import Enum, c_constant, c_identifier

PREFIX = {"struct": "", "message": "msg_", "command": "cmd_", "event": "event_", "record": "record_"}


def c_name(struct):
    """block_stream of kind command becomes cmd_block_stream; JOB_STATUS_CHANGE becomes event_job_status_change."""
    name = c_identifier(struct.name)
    return PREFIX[struct.kind] + (name.lower() if struct.kind == "event" else name)


def comment(text, indent=""):
    words, lines, line = " ".join(text.split()).split(" "), [], ""
    for word in words:
        if line and len(indent) + len(line) + len(word) > 94:
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else word
    lines.append(line)
    return f"{indent}/* " + f"\n{indent} * ".join(lines) + " */\n"


def directions(file):
    """[(sender, receiver, messages)] of a conversation between two."""
    if not file.of_kind("message"):
        return []
    left, right = file.peers
    return [
        (sender, receiver, [m for m in file.of_kind("message") if m.sender == sender])
        for sender, receiver in ((left, right), (right, left))
    ]


# ---------------------------------------------------------------- header

FIELD_TYPES = {
    "uint": "uint64_t ",
    "bool": "bool ",
    "str": "const char *",
    "bin": "struct wire_bytes ",
    "any": "struct wire_bytes ",
    "counts": "struct wire_count *",
}


def field_type(field):
    if field.kind in ("enum", "struct"):
        return f"{field.kind} {field.type.name} "
    return FIELD_TYPES[field.kind]


def has_flag(field):
    return field.optional and not field.is_list and field.kind in ("uint", "bool", "enum", "struct")


def has_count(field):
    return field.is_list or field.kind == "counts"


def struct_declaration(struct):
    text = comment(struct.about) + f"struct {c_name(struct)} {{\n"
    for field in struct.fields:
        name = c_identifier(field.name)
        about = field.about + (" (optional)" if field.optional else "")
        text += comment(about, "\t")
        if has_flag(field):
            text += f"\tbool has_{name};\n"
        text += f"\t{field_type(field)}{'*' if field.is_list else ''}{name};\n"
        if has_count(field):
            text += f"\tsize_t {name}_count;\n"
    if not struct.fields:
        text += "\tchar nothing; /* C wants a member */\n"
    text += "};\n"
    for field in struct.fields:
        limit = field.count_max if has_count(field) else field.maximum if field.kind in ("str", "bin") else 0
        if limit:
            text += f"#define {c_constant(c_name(struct))}_{c_constant(c_identifier(field.name))}_MAX {limit}\n"
    return text + f"extern const struct wire_struct {c_name(struct)}_table;\n\n"


def enum_prefix(name):
    """The words before a value: `enum worker_to_broker_type` and `enum command_name` have values without the last word."""
    for ending in ("_to_", "command", "event"):
        if ending in name and name.endswith(("_type", "_name")):
            return name.rsplit("_", 1)[0].upper()
    return name.upper()


def enum_declaration(name, about, values):
    text = comment(about) + f"enum {name} {{\n"
    for number, (value, value_about) in enumerate(values):
        text += comment(value_about, "\t") if value_about else ""
        text += f"\t{enum_prefix(name)}_{c_constant(value)} = {number},\n"
    text += "};\n"
    text += f"#define {enum_prefix(name)}_COUNT {len(values)}\n"
    return text


def enum_functions(enum):
    return (
        f"const char *{enum.name}_name(enum {enum.name} value);\n"
        f"/* false: no value of that name. */\n"
        f"bool {enum.name}_parse(const char *name, enum {enum.name} *ret_value);\n"
        f"extern const struct wire_enum {enum.name}_table;\n\n"
    )


def signature_encode(struct):
    name = c_name(struct)
    return f"void {name}_encode(const struct {name} *object, struct wire_buffer *buffer)"


def signature_decode(struct):
    name = c_name(struct)
    extra = ",\n\tconst char **ret_argument" if struct.kind == "command" else ""
    return (
        f"int {name}_decode(const void *bytes, size_t length, struct wire_memory *memory, struct {name} *ret_object"
        f"{extra}, struct err *err)"
    )


def signatures_return(struct):
    """(encode, decode) of what a command returns."""
    name, returns = c_name(struct), struct.returns
    if returns is None:
        return ()
    kind = f"struct {c_name(returns)}"
    if struct.returns_list:
        return (
            f"void {name}_return_encode(const {kind} *items, size_t count, struct wire_buffer *buffer)",
            f"int {name}_return_decode(const void *bytes, size_t length, struct wire_memory *memory, {kind} **ret_items,\n"
            f"\tsize_t *ret_count, struct err *err)",
        )
    return (
        f"void {name}_return_encode(const {kind} *object, struct wire_buffer *buffer)",
        f"int {name}_return_decode(const void *bytes, size_t length, struct wire_memory *memory, {kind} *ret_object,\n"
        f"\tstruct err *err)",
    )


def signatures_union(name):
    return (
        f"const char *{name}_type_name(enum {name}_type type)",
        f"void {name}_encode(const struct {name} *message, struct wire_buffer *buffer)",
        f"int {name}_decode(const void *bytes, size_t length, struct wire_memory *memory, struct {name} *ret_message,\n"
        f"\tstruct err *err)",
        f"void {name}_print(FILE *stream, const struct {name} *message)",
    )


def union_declaration(name, sender, receiver, messages):
    about = f"What {sender} may say to {receiver}."
    text = enum_declaration(f"{name}_type", about, [(m.name, "") for m in messages])
    text += f"struct {name} {{\n\tenum {name}_type type;\n\tunion {{\n"
    for message in messages:
        text += f"\t\tstruct {c_name(message)} {c_identifier(message.name)};\n"
    text += "\t};\n};\n"
    return text + ";\n".join(signatures_union(name)) + ";\n\n"


def command_name_declaration(commands):
    about = "The public commands, in the order of client_broker.toml."
    return (
        enum_declaration("command_name", about, [(c.name, "") for c in commands])
        + "const char *command_name_string(enum command_name command);\n"
        + "/* Takes `_` and `-` for one another; false: no such command. */\n"
        + "bool command_name_parse(const char *text, enum command_name *ret_command);\n\n"
    )


def event_name_declaration(events):
    about = "What is published, in the order of events.toml."
    return (
        enum_declaration("event_name", about, [(e.name, "") for e in events])
        + "const char *event_name_string(enum event_name event);\n"
        + "bool event_name_parse(const char *text, enum event_name *ret_event);\n"
        + "/* Whether it is in the store before it is published. */\n"
        + "bool event_is_durable(enum event_name event);\n\n"
    )


def header(file):
    guard = f"SLUICE_SCHEMAS_{file.name.upper()}_GEN_H"
    text = "/* SPDX-License-Identifier: Apache-2.0 */\n"
    text += comment(f"Made by schemas/generate.py from schemas/{file.name}.toml: change that. {file.about}")
    text += f"#ifndef {guard}\n#define {guard}\n\n#include \"schemas/wire.h\"\n"
    text += "".join(f'#include "schemas/{used}.gen.h"\n' for used in sorted(file.uses))
    text += "\nstruct wire_struct;\nstruct wire_enum;\n\n"
    for enum in file.enums:
        text += enum_declaration(enum.name, enum.about, enum.values) + enum_functions(enum)
    if file.of_kind("command"):
        text += command_name_declaration(file.of_kind("command"))
    if file.of_kind("event"):
        text += event_name_declaration(file.of_kind("event"))
    for struct in file.structs:
        text += struct_declaration(struct)
        text += "".join(f"{s};\n" for s in signatures(struct))
        text += "\n"
    for sender, receiver, messages in directions(file):
        text += union_declaration(f"{sender}_to_{receiver}", sender, receiver, messages)
    return text + "#endif\n"


def signatures(struct):
    if struct.kind == "message":
        return (signature_encode(struct),)
    return (signature_encode(struct), signature_decode(struct), *signatures_return(struct))


# ---------------------------------------------------------------- tables and functions


def field_entry(struct, field):
    name, owner = c_identifier(field.name), f"struct {c_name(struct)}"
    parts = [f'.key = "{field.name}"', f".kind = WIRE_{field.kind.upper()}", f".offset = offsetof({owner}, {name})"]
    if field.optional:
        parts.append(".is_optional = true")
    if has_flag(field):
        parts.append(f".has_offset = offsetof({owner}, has_{name})")
    if field.is_list:
        parts.append(f".is_list = true, .item_size = sizeof *(({owner} *)NULL)->{name}")
    if has_count(field):
        parts.append(f".count_offset = offsetof({owner}, {name}_count), .count_max = {field.count_max}")
    if field.pattern:
        parts.append(".is_name = true")
    if field.minimum:
        parts.append(f".min = {field.minimum}")
    if field.maximum:
        parts.append(f".max = {field.maximum}u")
    if field.kind == "enum":
        parts.append(f".values = &{field.type.name}_table")
    if field.kind == "struct":
        parts.append(f".fields = &{c_name(field.type)}_table")
    return "\t{ " + ", ".join(parts) + " },\n"


def struct_table(struct):
    name = c_name(struct)
    entries = "".join(field_entry(struct, field) for field in struct.fields)
    text = f"static const struct wire_field {name}_fields[] = {{\n{entries}}};\n" if entries else ""
    return text + (
        f"const struct wire_struct {name}_table = {{ .name = \"{struct.name}\", .size = sizeof(struct {name}), "
        f".fields = {f'{name}_fields' if entries else 'NULL'}, .count = {len(struct.fields)} }};\n\n"
    )


def string_table(name, values):
    quoted = ", ".join(f'"{value}"' for value in values)
    return f"static const char *const {name}_values[] = {{ {quoted} }};\n"


def enum_table(enum):
    name = enum.name
    return (
        string_table(name, [value for value, _ in enum.values])
        + f"const struct wire_enum {name}_table = {{ \"{name}\", {name}_values, {len(enum.values)} }};\n\n"
        + f"const char *{name}_name(enum {name} value)\n{{\n"
        + f"\treturn wire_enum_name(&{name}_table, (unsigned)value);\n}}\n\n"
        + name_parser(f"{name}_parse(const char *name", f"enum {name}", f"{name}_table", "wire_enum_parse")
    )


def name_parser(start, kind, table, function):
    argument = start.rsplit("*", 1)[1]
    result = "ret_" + {"enum command_name": "command", "enum event_name": "event"}.get(kind, "value")
    return (
        f"bool {start}, {kind} *{result})\n{{\n\tunsigned number;\n\n"
        f"\tif (!{function}(&{table}, {argument}, &number))\n\t\treturn false;\n"
        f"\t*{result} = ({kind})number;\n\treturn true;\n}}\n\n"
    )


def names_of_commands(commands):
    return (
        string_table("command_name", [c.name for c in commands])
        + f"static const struct wire_enum command_name_table = {{ \"command\", command_name_values, {len(commands)} }};\n\n"
        + "const char *command_name_string(enum command_name command)\n{\n"
        + "\treturn wire_enum_name(&command_name_table, (unsigned)command);\n}\n\n"
        + name_parser("command_name_parse(const char *text", "enum command_name", "command_name_table", "wire_enum_parse_loose")
    )


def names_of_events(events):
    durable = ", ".join("true" if e.durable else "false" for e in events)
    return (
        string_table("event_name", [e.name for e in events])
        + f"static const struct wire_enum event_name_table = {{ \"event\", event_name_values, {len(events)} }};\n\n"
        + "const char *event_name_string(enum event_name event)\n{\n"
        + "\treturn wire_enum_name(&event_name_table, (unsigned)event);\n}\n\n"
        + name_parser("event_name_parse(const char *text", "enum event_name", "event_name_table", "wire_enum_parse")
        + "bool event_is_durable(enum event_name event)\n{\n"
        + f"\tstatic const bool durable[] = {{ {durable} }};\n\n"
        + f"\treturn (unsigned)event < {len(events)} && durable[event];\n}}\n\n"
    )


def reading(limits, noun, refuses_unknown=False, ret_field="NULL"):
    return (
        f"\tconst struct wire_reading reading = {{ .memory = memory, .limits = &wire_limits_{limits}, .noun = \"{noun}\", "
        f".refuses_unknown = {'true' if refuses_unknown else 'false'}, .ret_field = {ret_field} }};\n"
        f"\tconst struct wire_bytes packed = {{ bytes, length }};\n\n"
    )


def encode_function(struct):
    kind = f'"{struct.name}"' if struct.kind == "message" else "NULL"
    return f"{signature_encode(struct)}\n{{\n\twire_encode(&{c_name(struct)}_table, {kind}, object, buffer);\n}}\n\n"


def decode_function(struct):
    name = c_name(struct)
    if struct.kind == "command":
        body = reading("request", "argument", True, "ret_argument")
    elif struct.kind == "struct":
        body = reading("reply", "member")
    else:
        body = reading("message", "field")
    return (
        f"{signature_decode(struct)}\n{{\n{body}\treturn wire_decode(&{name}_table, packed, &reading, ret_object, err);\n}}\n\n"
    )


def return_functions(struct):
    if struct.returns is None:
        return ""
    encode, decode = signatures_return(struct)
    table = f"&{c_name(struct.returns)}_table"
    if struct.returns_list:
        encoding = f"\twire_encode_list({table}, items, count, buffer);\n"
        decoding = f"\treturn wire_decode_list({table}, packed, &reading, ret_items, ret_count, err);\n"
    else:
        encoding = f"\twire_encode({table}, NULL, object, buffer);\n"
        decoding = f"\treturn wire_decode({table}, packed, &reading, ret_object, err);\n"
    return f"{encode}\n{{\n{encoding}}}\n\n{decode}\n{{\n{reading('reply', 'member')}{decoding}}}\n\n"


def union_functions(name, messages):
    type_name, encode, decode, print_ = signatures_union(name)
    tables = ", ".join(f"&{c_name(m)}_table" for m in messages)
    first = c_identifier(messages[0].name)
    return (
        f"static const struct wire_struct *const {name}_variants[] = {{ {tables} }};\n"
        f"static const struct wire_union {name}_union = {{ .name = \"{name}\", .size = sizeof(struct {name}), "
        f".union_offset = offsetof(struct {name}, {first}), .variants = {name}_variants, .count = {len(messages)} }};\n\n"
        f"{type_name}\n{{\n\treturn (unsigned)type < {len(messages)} ? {name}_variants[type]->name : \"?\";\n}}\n\n"
        f"{encode}\n{{\n\twire_encode_union(&{name}_union, message, buffer);\n}}\n\n"
        f"{decode}\n{{\n{reading('message', 'field')}"
        f"\treturn wire_decode_union(&{name}_union, packed, &reading, ret_message, err);\n}}\n\n"
        f"{print_}\n{{\n\twire_print_union(stream, &{name}_union, message);\n}}\n\n"
    )


def source(file):
    text = "/* SPDX-License-Identifier: Apache-2.0 */\n"
    text += comment(f"Made by schemas/generate.py from schemas/{file.name}.toml: change that.")
    text += f'#include "schemas/{file.name}.gen.h"\n\n#include "schemas/wire_table.h"\n\n'
    for enum in file.enums:
        text += enum_table(enum)
    for struct in file.structs:
        text += struct_table(struct)
    if file.of_kind("command"):
        text += names_of_commands(file.of_kind("command"))
    if file.of_kind("event"):
        text += names_of_events(file.of_kind("event"))
    for struct in file.structs:
        text += encode_function(struct)
        if struct.kind != "message":
            text += decode_function(struct) + return_functions(struct)
    for sender, receiver, messages in directions(file):
        text += union_functions(f"{sender}_to_{receiver}", messages)
    return text
