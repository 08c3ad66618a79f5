/* SPDX-License-Identifier: Apache-2.0 */
/* Requests, replies and events as whole maps, over the tables of envelope.toml. */
#include "schemas/wire_request.h"

#include "schemas/wire_table.h"

static const uint8_t empty_map[] = {0x80};

static bool is_map(struct wire_bytes packed)
{
	uint8_t first = *(const uint8_t *)packed.bytes;

	return (first & 0xf0) == 0x80 || first == 0xde || first == 0xdf;
}

static int read_request(struct wire_bytes packed, const struct wire_reading *reading,
	struct request_envelope *ret_request, struct err *err)
{
	struct request_envelope request;

	if (wire_decode(&request_envelope_table, packed, reading, &request, err) < 0)
		return -1;
	if (!request.arguments.bytes)
		request.arguments = (struct wire_bytes){empty_map, sizeof empty_map};
	if (!is_map(request.arguments))
		return err_set(err, "member 'arguments' must be a map");
	*ret_request = request;
	return 0;
}

int wire_request_read(const void *bytes, size_t length, struct wire_memory *memory,
	struct request_envelope *ret_request, struct err *err)
{
	const struct wire_bytes packed = {bytes, length};
	struct wire_reading reading = {
		.memory = memory,
		.limits = &wire_limits_request,
		.noun = "member",
		.refuses_unknown = true,
	};
	struct request_id id;
	struct err ignored;

	if (read_request(packed, &reading, ret_request, err) == 0)
		return 0;
	reading.refuses_unknown = false;
	*ret_request = (struct request_envelope){0};
	if (wire_decode(&request_id_table, packed, &reading, &id, &ignored) == 0)
		ret_request->id = id.id;
	return err_wrap(err, "the request can't be read");
}

void wire_request_put(struct wire_buffer *buffer, const char *command, struct wire_bytes arguments,
	struct wire_bytes id)
{
	struct request_envelope request = {.execute = command, .arguments = arguments, .id = id};

	request_envelope_encode(&request, buffer);
}

void wire_reply_put(
	struct wire_buffer *buffer, struct wire_bytes id, uint64_t seq, struct wire_bytes returned)
{
	struct reply_envelope reply = {.returned = returned, .id = id, .seq = seq};

	if (!returned.bytes)
		reply.returned = (struct wire_bytes){empty_map, sizeof empty_map};
	reply_envelope_encode(&reply, buffer);
}

static void put_names(struct wire_buffer *buffer, const struct wire_name *names, size_t count)
{
	size_t present = 0;

	for (size_t i = 0; i < count; i++)
		present += names[i].value != NULL;
	wire_put_map(buffer, present);
	for (size_t i = 0; i < count; i++) {
		if (!names[i].value)
			continue;
		wire_put_str(buffer, names[i].key);
		wire_put_str(buffer, names[i].value);
	}
}

void wire_reply_put_error(struct wire_buffer *buffer, struct wire_bytes id, uint64_t seq,
	enum error_class class, const char *desc, const struct wire_name *names, size_t names_count)
{
	struct wire_buffer data = {0};
	struct reply_envelope reply = {.has_error = true, .id = id, .seq = seq};

	put_names(&data, names, names_count);
	reply.error.class = error_class_name(class);
	reply.error.desc = desc;
	reply.error.data = wire_buffer_bytes(&data);
	reply_envelope_encode(&reply, buffer);
	wire_buffer_done(&data);
}

int wire_reply_read(const void *bytes, size_t length, struct wire_memory *memory,
	struct reply_envelope *ret_reply, struct err *err)
{
	struct reply_envelope reply;

	if (reply_envelope_decode(bytes, length, memory, &reply, err) < 0)
		return err_wrap(err, "the reply can't be read");
	if (reply.has_error == (reply.returned.bytes != NULL))
		return err_set(err, "the reply can't be read: it must have either return or error");
	*ret_reply = reply;
	return 0;
}

void wire_event_put(struct wire_buffer *buffer, const char *event, struct wire_bytes data,
	uint64_t real_us, uint64_t seq, uint64_t prev)
{
	struct event_envelope envelope = {
		.event = event,
		.data = data,
		.timestamp = {.seconds = real_us / 1000000, .microseconds = real_us % 1000000},
		.has_seq = seq > 0,
		.seq = seq,
		.has_prev = seq > 0,
		.prev = prev,
	};

	event_envelope_encode(&envelope, buffer);
}
