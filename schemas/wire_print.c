/* SPDX-License-Identifier: Apache-2.0 */
/* msgpack as a line of JSON, for logs, for people and for fronts that speak JSON.
 *
 * Recursion is as deep as the guard lets it be. */
#include "schemas/wire_table.h"

#include <math.h>
#include <string.h>

#include "schemas/wire_tree.h"

static void put_text(struct wire_buffer *buffer, const char *text)
{
	wire_buffer_append(buffer, text, strlen(text));
}

/* The letter after the backslash; 0 where there is none for this byte. */
static char short_escape(uint8_t byte)
{
	switch (byte) {
	case '"':
	case '\\':
		return (char)byte;
	case '\b':
		return 'b';
	case '\f':
		return 'f';
	case '\n':
		return 'n';
	case '\r':
		return 'r';
	case '\t':
		return 't';
	default:
		return 0;
	}
}

static void format_str(struct wire_buffer *buffer, const char *bytes, size_t length)
{
	char escape[8];

	put_text(buffer, "\"");
	for (size_t i = 0; i < length; i++) {
		uint8_t byte = (uint8_t)bytes[i];

		if (short_escape(byte))
			(void)snprintf(escape, sizeof escape, "\\%c", short_escape(byte));
		else if (byte < 0x20 || byte == 0x7f)
			(void)snprintf(escape, sizeof escape, "\\u%04x", byte);
		else
			(void)snprintf(escape, sizeof escape, "%c", byte);
		put_text(buffer, escape);
	}
	put_text(buffer, "\"");
}

static void format_bin(struct wire_buffer *buffer, const char *bytes, size_t length)
{
	char digits[3];

	put_text(buffer, "\"");
	for (size_t i = 0; i < length; i++) {
		(void)snprintf(digits, sizeof digits, "%02x", (uint8_t)bytes[i]);
		put_text(buffer, digits);
	}
	put_text(buffer, "\"");
}

static void format_double(struct wire_buffer *buffer, double value)
{
	char text[40];

	if (!isfinite(value)) {
		put_text(buffer, "null");
		return;
	}
	(void)snprintf(text, sizeof text, "%.17g", value);
	put_text(buffer, text);
	if (!strpbrk(text, ".e"))
		put_text(buffer, ".0");
}

static void format_object(struct wire_buffer *buffer, const msgpack_object *object);

static void format_array(struct wire_buffer *buffer, const msgpack_object_array *array)
{
	put_text(buffer, "[");
	for (size_t i = 0; i < array->size; i++) {
		if (i)
			put_text(buffer, ", ");
		format_object(buffer, &array->ptr[i]);
	}
	put_text(buffer, "]");
}

static void format_map(struct wire_buffer *buffer, const msgpack_object_map *map)
{
	put_text(buffer, "{");
	for (size_t i = 0; i < map->size; i++) {
		if (i)
			put_text(buffer, ", ");
		format_object(buffer, &map->ptr[i].key);
		put_text(buffer, ": ");
		format_object(buffer, &map->ptr[i].val);
	}
	put_text(buffer, "}");
}

static void format_object(struct wire_buffer *buffer, const msgpack_object *object)
{
	char number[24];

	switch (object->type) {
	case MSGPACK_OBJECT_NIL:
	case MSGPACK_OBJECT_EXT:
		put_text(buffer, "null");
		return;
	case MSGPACK_OBJECT_BOOLEAN:
		put_text(buffer, object->via.boolean ? "true" : "false");
		return;
	case MSGPACK_OBJECT_POSITIVE_INTEGER:
		(void)snprintf(number, sizeof number, "%llu", (unsigned long long)object->via.u64);
		put_text(buffer, number);
		return;
	case MSGPACK_OBJECT_NEGATIVE_INTEGER:
		(void)snprintf(number, sizeof number, "%lld", (long long)object->via.i64);
		put_text(buffer, number);
		return;
	case MSGPACK_OBJECT_FLOAT32:
	case MSGPACK_OBJECT_FLOAT64:
		format_double(buffer, object->via.f64);
		return;
	case MSGPACK_OBJECT_STR:
		format_str(buffer, object->via.str.ptr, object->via.str.size);
		return;
	case MSGPACK_OBJECT_BIN:
		format_bin(buffer, object->via.bin.ptr, object->via.bin.size);
		return;
	case MSGPACK_OBJECT_ARRAY:
		format_array(buffer, &object->via.array);
		return;
	case MSGPACK_OBJECT_MAP:
		format_map(buffer, &object->via.map);
		return;
	}
}

int wire_format(struct wire_buffer *buffer, struct wire_bytes packed,
	const struct wire_limits *limits, struct err *err)
{
	struct wire_tree tree;
	int r = wire_tree_read(&tree, packed, limits, err);

	if (r == 0)
		format_object(buffer, wire_tree_root(&tree));
	wire_tree_done(&tree);
	return r;
}

void wire_print_bytes(FILE *stream, const void *bytes, size_t length)
{
	struct wire_bytes packed = {.bytes = bytes, .length = length};
	struct wire_buffer text = {0};
	struct err err;

	if (wire_format(&text, packed, &wire_limits_reply, &err) == 0)
		(void)fwrite(text.bytes, 1, text.length, stream);
	else
		(void)fprintf(stream, "<%s>", err.text);
	wire_buffer_done(&text);
}

void wire_print(FILE *stream, const struct wire_struct *table, const void *object)
{
	struct wire_buffer packed = {0};

	wire_encode(table, NULL, object, &packed);
	wire_print_bytes(stream, packed.bytes, packed.length);
	wire_buffer_done(&packed);
}

void wire_print_union(FILE *stream, const struct wire_union *table, const void *object)
{
	struct wire_buffer packed = {0};

	wire_encode_union(table, object, &packed);
	wire_print_bytes(stream, packed.bytes, packed.length);
	wire_buffer_done(&packed);
}
