/* SPDX-License-Identifier: Apache-2.0 */
/* The tables that generated code is made of, and what walks them.  Programs call the generated functions instead.
 *
 * A struct's table says for each key of a map what may stand there and where in the C struct it goes. */
#ifndef SLUICE_SCHEMAS_WIRE_TABLE_H
#define SLUICE_SCHEMAS_WIRE_TABLE_H

#include "schemas/wire.h"

enum wire_kind {
	WIRE_UINT,   /* uint64_t */
	WIRE_BOOL,   /* bool */
	WIRE_STR,    /* const char * */
	WIRE_BIN,    /* struct wire_bytes */
	WIRE_ANY,    /* struct wire_bytes: the packed value */
	WIRE_COUNTS, /* struct wire_count *, and a count */
	WIRE_ENUM,   /* an enum; its value's name on the wire */
	WIRE_STRUCT  /* a struct; a map on the wire */
};

struct wire_enum {
	const char *name;
	const char *const *values; /* by number */
	size_t count;
};

struct wire_field {
	const char *key;
	enum wire_kind kind;
	bool is_optional;
	bool is_list;
	bool is_name; /* str: a letter, then letters, digits, '-', '.', '_' */
	size_t offset;
	size_t has_offset; /* of the bool, where is_optional and the kind has no absent value of its own */
	size_t count_offset; /* of the size_t, where is_list or WIRE_COUNTS */
	size_t count_max;    /* entries */
	size_t item_size;    /* in C, where is_list */
	uint64_t min, max;   /* of a uint's value; of the bytes of a str or bin */
	const struct wire_enum *values;
	const struct wire_struct *fields;
};

struct wire_struct {
	const char *name;
	size_t size;
	const struct wire_field *fields;
	size_t count;
};

/* A tagged union of messages: an enum at offset 0, the union at `union_offset`. */
struct wire_union {
	const char *name;
	size_t size;
	size_t union_offset;
	const struct wire_struct *const *variants; /* by number; a variant's name is its `type` */
	size_t count;
};

/* How to decode.  `memory` gets strings and lists. */
struct wire_reading {
	struct wire_memory *memory;
	const struct wire_limits *limits;
	const char *noun; /* what errors call a field: "argument" */
	bool refuses_unknown;
	const char **
		ret_field; /* may be NULL; on failure the top-level field it was about, in memory, or NULL for none */
};

/* 0, or -1 and err; what ret points to is not touched on failure. */
int MUST_CHECK wire_decode(const struct wire_struct *table, struct wire_bytes bytes,
	const struct wire_reading *reading, void *ret, struct err *err);
/* A list of structs: *ret_items points to `count` of them in memory. */
int MUST_CHECK wire_decode_list(const struct wire_struct *table, struct wire_bytes bytes,
	const struct wire_reading *reading, void *ret_items, size_t *ret_count, struct err *err);
int MUST_CHECK wire_decode_union(const struct wire_union *table, struct wire_bytes bytes,
	const struct wire_reading *reading, void *ret, struct err *err);

/* Append the struct as a map; `type`, if not NULL, is its first entry.  What the schema limits is kept by the caller:
 * numbers and lists beyond it are a bug; strs are cut at a character's end, and what is no UTF-8 in them becomes '?'. */
void wire_encode(const struct wire_struct *table, const char *type, const void *object,
	struct wire_buffer *buffer);
void wire_encode_list(const struct wire_struct *table, const void *items, size_t count,
	struct wire_buffer *buffer);
void wire_encode_union(
	const struct wire_union *table, const void *object, struct wire_buffer *buffer);

/* One line of JSON, without the newline. */
void wire_print(FILE *stream, const struct wire_struct *table, const void *object);
void wire_print_union(FILE *stream, const struct wire_union *table, const void *object);

/* The name of a value; "?" beyond the last. */
const char *wire_enum_name(const struct wire_enum *table, unsigned value);
/* false: no value of that name. */
bool wire_enum_parse(const struct wire_enum *table, const char *name, unsigned *ret_value);
/* Takes `_` and `-` for one another. */
bool wire_enum_parse_loose(const struct wire_enum *table, const char *name, unsigned *ret_value);

#endif
