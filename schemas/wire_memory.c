/* SPDX-License-Identifier: Apache-2.0 */
/* Memory for both directions: the buffer that encoders append to, and the chunks that decoded strings and lists live in.
 *
 * A chunk list only grows; nothing in it is ever moved, so pointers into it hold until it is reset. */
#include "schemas/wire.h"

#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"

#define BUFFER_FIRST_ROOM 256
#define CHUNK_ROOM	  4096

struct wire_chunk {
	struct wire_chunk *older;
	size_t used;
	size_t room;
	alignas(max_align_t) uint8_t bytes[];
};

void wire_buffer_init(struct wire_buffer *buffer)
{
	*buffer = (struct wire_buffer){0};
}

void wire_buffer_done(struct wire_buffer *buffer)
{
	if (!buffer)
		return;
	free(buffer->bytes);
	*buffer = (struct wire_buffer){0};
}

void wire_buffer_clear(struct wire_buffer *buffer)
{
	buffer->length = 0;
}

void wire_buffer_append(struct wire_buffer *buffer, const void *bytes, size_t length)
{
	if (length == 0)
		return;
	bug_if(length > SIZE_MAX / 4 || buffer->length > SIZE_MAX / 4);
	if (buffer->room - buffer->length < length) {
		size_t room = buffer->room ? buffer->room : BUFFER_FIRST_ROOM;

		while (room < buffer->length + length)
			room *= 2;
		buffer->bytes = must_realloc(buffer->bytes, room, 1);
		buffer->room = room;
	}
	memcpy(buffer->bytes + buffer->length, bytes, length);
	buffer->length += length;
}

struct wire_bytes wire_buffer_bytes(const struct wire_buffer *buffer)
{
	return (struct wire_bytes){.bytes = buffer->bytes, .length = buffer->length};
}

void wire_memory_init(struct wire_memory *memory)
{
	memory->chunks = NULL;
}

static void free_chunks(struct wire_chunk *chunk)
{
	while (chunk) {
		struct wire_chunk *older = chunk->older;

		free(chunk);
		chunk = older;
	}
}

void wire_memory_done(struct wire_memory *memory)
{
	if (!memory)
		return;
	free_chunks(memory->chunks);
	memory->chunks = NULL;
}

void wire_memory_reset(struct wire_memory *memory)
{
	struct wire_chunk *kept = memory->chunks;

	if (!kept)
		return;
	if (kept->room > CHUNK_ROOM) {
		wire_memory_done(memory);
		return;
	}
	free_chunks(kept->older);
	kept->older = NULL;
	kept->used = 0;
}

void *wire_memory_get(struct wire_memory *memory, size_t bytes)
{
	const size_t unit = alignof(max_align_t);
	struct wire_chunk *chunk = memory->chunks;
	void *got;

	bug_if(bytes > SIZE_MAX / 2);
	bytes = bytes ? (bytes + unit - 1) / unit * unit : unit;
	if (!chunk || chunk->room - chunk->used < bytes) {
		size_t room = bytes > CHUNK_ROOM ? bytes : CHUNK_ROOM;

		chunk = must_realloc(NULL, sizeof *chunk + room, 1);
		chunk->older = memory->chunks;
		chunk->used = 0;
		chunk->room = room;
		memory->chunks = chunk;
	}
	got = chunk->bytes + chunk->used;
	chunk->used += bytes;
	return memset(got, 0, bytes);
}

char *wire_memory_text(struct wire_memory *memory, const void *bytes, size_t length)
{
	char *text = wire_memory_get(memory, length + 1);

	if (length)
		memcpy(text, bytes, length);
	return text;
}
