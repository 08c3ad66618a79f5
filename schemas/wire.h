/* SPDX-License-Identifier: Apache-2.0 */
/* msgpack on every socket and in the store: from C structs to bytes and back, led by tables that generate.py makes.
 *
 * Bytes of others are believed in three steps: the guard looks at all of them before anything is allocated, msgpack-c
 * reads them, the table says what may be where.  Who fails says which field, in a sentence.  Nothing here knows a
 * message; the generated headers do.  No threads of its own, no state: any thread may call. */
#ifndef SLUICE_SCHEMAS_WIRE_H
#define SLUICE_SCHEMAS_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/attributes.h"
#include "common/err.h"

/* A packed value, or plain bytes; whose memory it is stands where one is handed over.  bytes NULL: absent. */
struct wire_bytes {
	const void *bytes;
	size_t length;
};

/* An entry of a map from names to numbers. */
struct wire_count {
	const char *name;
	uint64_t value;
};

/* ---- output: a buffer that grows; encoders append.  All zero is an empty one. */

struct wire_buffer {
	uint8_t *bytes;
	size_t length;
	size_t room;
};

void wire_buffer_init(struct wire_buffer *buffer);
void wire_buffer_done(struct wire_buffer *buffer);
/* Forgets the content, keeps the memory. */
void wire_buffer_clear(struct wire_buffer *buffer);
void wire_buffer_append(struct wire_buffer *buffer, const void *bytes, size_t length);
struct wire_bytes wire_buffer_bytes(const struct wire_buffer *buffer);

/* ---- memory for what was decoded: lives until done or reset.  All zero is an empty one. */

struct wire_memory {
	struct wire_chunk *chunks;
};

void wire_memory_init(struct wire_memory *memory);
void wire_memory_done(struct wire_memory *memory);
/* Frees all that was got from it, but keeps a chunk for the next message. */
void wire_memory_reset(struct wire_memory *memory);
/* Zeroed and aligned for any type; never NULL, also for no bytes. */
void *wire_memory_get(struct wire_memory *memory, size_t bytes);
/* A copy with a NUL after it. */
char *wire_memory_text(struct wire_memory *memory, const void *bytes, size_t length);

/* ---- the guard */

struct wire_limits {
	size_t bytes_max;
	uint32_t depth_max; /* containers in one another; 31 is the most that msgpack-c can read */
	uint32_t objects_max; /* values and keys; each costs 24 bytes while it is read */
};

#define WIRE_MAP_KEYS_MAX 256 /* in one map */
#define WIRE_DEPTH_MAX	  31

extern const struct wire_limits wire_limits_request; /* what a stranger sends: 64 KiB */
extern const struct wire_limits
	wire_limits_message; /* internal conversations and the store: 4 MiB */
extern const struct wire_limits
	wire_limits_reply; /* what the broker answers to its clients: 64 MiB */

/* 0: the bytes are exactly one msgpack value within the limits, every map's keys are different strs, every str is
 * UTF-8, nothing is an extension.  -1 and err (a clause such as "it ends too early").  Allocates nothing. */
int MUST_CHECK wire_guard(
	const void *bytes, size_t length, const struct wire_limits *limits, struct err *err);

/* ---- by hand: for the few maps that have no schema.  Each appends one value, or the head of one whose `count` entries
 * are to follow.  wire_put_packed appends one that is packed already (nil where there is none). */

void wire_put_nil(struct wire_buffer *buffer);
void wire_put_bool(struct wire_buffer *buffer, bool value);
void wire_put_uint(struct wire_buffer *buffer, uint64_t value);
void wire_put_int(struct wire_buffer *buffer, int64_t value);
void wire_put_double(struct wire_buffer *buffer, double value);
/* Bytes that are no UTF-8, and NULs, become '?'. */
void wire_put_str(struct wire_buffer *buffer, const char *text);
void wire_put_str_bytes(struct wire_buffer *buffer, const char *bytes, size_t length);
void wire_put_bin(struct wire_buffer *buffer, const void *bytes, size_t length);
void wire_put_array(struct wire_buffer *buffer, size_t count);
void wire_put_map(struct wire_buffer *buffer, size_t count);
void wire_put_packed(struct wire_buffer *buffer, struct wire_bytes packed);

/* ---- for people: JSON on one line.  A bin is printed as its hexadecimal digits, a number that JSON lacks as null. */

/* Appends text without a NUL.  -1 and err: the bytes do not pass the guard; nothing is appended. */
int MUST_CHECK wire_format(struct wire_buffer *buffer, struct wire_bytes packed,
	const struct wire_limits *limits, struct err *err);
/* The same to a stream; what does not pass is printed as the reason in angle brackets. */
void wire_print_bytes(FILE *stream, const void *bytes, size_t length);

/* ---- UTF-8 as the guard wants it: no overlong forms, no surrogates, nothing above U+10FFFF */

/* How many bytes of the next character; 0: not UTF-8 there. */
size_t wire_utf8_character(const uint8_t *bytes, size_t length);

#endif
