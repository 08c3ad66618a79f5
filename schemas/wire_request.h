/* SPDX-License-Identifier: Apache-2.0 */
/* What goes around commands and events on the public sockets: requests, replies and event maps as a whole.
 *
 * The maps are defined in envelope.toml; this adds what a table can't say.  What a command's arguments are is not known
 * here: they stay packed, for cmd_X_decode. */
#ifndef SLUICE_SCHEMAS_WIRE_REQUEST_H
#define SLUICE_SCHEMAS_WIRE_REQUEST_H

#include "schemas/envelope.gen.h"
#include "schemas/errors.gen.h"
#include "schemas/wire.h"

/* A word of a sentence for people that a program may want: `{ "device", "virtio0" }`. */
struct wire_name {
	const char *key;
	const char *value;
};

/* Reads a request of a stranger, of at most 64 KiB.  `arguments` is a packed map, {} where none came.  0; or -1 and err, a
 * sentence for the reply, and then ret_request->id is set where the request had one that could be read (and
 * all else is zero). */
int MUST_CHECK wire_request_read(const void *bytes, size_t length, struct wire_memory *memory,
	struct request_envelope *ret_request, struct err *err);

/* Appends a whole request.  Arguments (a packed map) and id may be absent. */
void wire_request_put(struct wire_buffer *buffer, const char *command, struct wire_bytes arguments,
	struct wire_bytes id);

/* Append a whole reply.  `id` as in the request (may be absent); `returned` is a packed value, absent for {}. */
void wire_reply_put(
	struct wire_buffer *buffer, struct wire_bytes id, uint64_t seq, struct wire_bytes returned);
/* Names with a NULL value are left out. */
void wire_reply_put_error(struct wire_buffer *buffer, struct wire_bytes id, uint64_t seq,
	enum error_class class, const char *desc, const struct wire_name *names,
	size_t names_count);

/* Reads a reply of the broker: it has either `returned` or `error`.  0, or -1 and err. */
int MUST_CHECK wire_reply_read(const void *bytes, size_t length, struct wire_memory *memory,
	struct reply_envelope *ret_reply, struct err *err);

/* Appends the second frame of an event.  `data` is a packed map; seq 0: not durable, then prev counts for nothing. */
void wire_event_put(struct wire_buffer *buffer, const char *event, struct wire_bytes data,
	uint64_t real_us, uint64_t seq, uint64_t prev);

/* A reader for it is event_envelope_decode. */

#endif
