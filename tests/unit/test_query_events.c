/* SPDX-License-Identifier: Apache-2.0 */
/* Pages of the event log. */
#include <string.h>

#include "broker/query_events.h"
#include "schemas/client_broker.gen.h"
#include "schemas/records.gen.h"
#include "schemas/wire_request.h"
#include "tests/unit/store_fixture.h"
#include "tests/unit/unit.h"

#define EPOCH 4242

static struct store *store;
static struct wire_buffer reply;
static struct wire_memory memory;
static struct event_page page;
static struct reply_envelope envelope;

static void begin(void)
{
	make_folder();
	store = open_store();
	wire_buffer_init(&reply);
	wire_memory_init(&memory);
}

static void end(void)
{
	wire_buffer_done(&reply);
	wire_memory_done(&memory);
	store_close(store);
	remove_folder();
}

static void add_event(struct store_batch *batch, uint64_t seq, const char *name, const char *device,
	size_t padding)
{
	struct wire_buffer packed = {0};
	struct wire_buffer record = {0};
	struct wire_buffer pad = {0};
	struct effect effect = {.kind = EFFECT_STORE_PUT, .table = STORE_EVENTS, .key_length = 8};
	char *text = calloc(1, padding + 1);

	memset(text, 'p', padding);
	wire_put_map(&pad, 1);
	wire_put_str(&pad, "reason");
	wire_put_str(&pad, text);
	wire_event_put(&packed, name, wire_buffer_bytes(&pad), 1000000, seq, 0);
	record_event_encode(
		&(struct record_event){
			.event = name, .device = device, .packed = wire_buffer_bytes(&packed)},
		&record);
	for (int i = 0; i < 8; i++)
		effect.key[i] = (unsigned char)(seq >> (56 - 8 * i));
	effect.bytes = record.bytes;
	effect.length = record.length;
	store_batch_take(batch, &effect);
	wire_buffer_done(&packed);
	wire_buffer_done(&pad);
	free(text);
}

static void add_events(uint64_t first, uint64_t last, size_t padding)
{
	struct store_batch *batch = store_batch_new();

	for (uint64_t seq = first; seq <= last; seq++)
		add_event(batch, seq, seq % 2 ? "DEVICE_ONLINE" : "DEVICE_OFFLINE",
			seq % 3 ? "vda" : "vdb", padding);
	apply_and_free(store, batch);
}

static void ask_packed(struct wire_bytes arguments)
{
	struct wire_buffer request = {0};
	struct wire_buffer id = {0};
	struct err err = {0};

	wire_put_str(&id, "mine");
	wire_request_put(&request, "query-events", arguments, wire_buffer_bytes(&id));
	wire_buffer_clear(&reply);
	ck_assert_msg(
		query_events_answer(store, EPOCH, request.bytes, request.length, &reply, &err) == 0,
		"%s", err.text);
	ck_assert_msg(wire_reply_read(reply.bytes, reply.length, &memory, &envelope, &err) == 0,
		"%s", err.text);
	ck_assert_uint_eq(envelope.id.length, id.length);
	ck_assert_mem_eq(envelope.id.bytes, id.bytes, id.length);
	wire_buffer_done(&request);
	wire_buffer_done(&id);
}

static void ask(const struct cmd_query_events *wanted)
{
	struct wire_buffer arguments = {0};
	struct err err = {0};

	cmd_query_events_encode(wanted, &arguments);
	ask_packed(wire_buffer_bytes(&arguments));
	ck_assert(!envelope.has_error);
	ck_assert_msg(event_page_decode(envelope.returned.bytes, envelope.returned.length, &memory,
			      &page, &err) == 0,
		"%s", err.text);
	wire_buffer_done(&arguments);
}

static uint64_t seq_of(size_t index)
{
	struct event_envelope event;
	struct err err = {0};

	ck_assert_msg(event_envelope_decode(page.events[index].bytes, page.events[index].length,
			      &memory, &event, &err) == 0,
		"%s", err.text);
	return event.seq;
}

START_TEST(an_empty_log_has_no_ends)
{
	begin();

	ask(&(struct cmd_query_events){.after = 0});

	ck_assert_uint_eq(page.events_count, 0);
	ck_assert_uint_eq(page.first, 0);
	ck_assert_uint_eq(page.last, 0);
	ck_assert(!page.more);
	ck_assert_uint_eq(page.epoch, EPOCH);
	end();
}
END_TEST

START_TEST(a_page_begins_after_what_is_known_and_says_whether_there_is_more)
{
	begin();
	add_events(11, 30, 10);

	ask(&(struct cmd_query_events){.after = 14, .has_limit = true, .limit = 5});

	ck_assert_uint_eq(page.events_count, 5);
	ck_assert_uint_eq(seq_of(0), 15);
	ck_assert_uint_eq(seq_of(4), 19);
	ck_assert(page.more);
	ck_assert_uint_eq(page.first, 11);
	ck_assert_uint_eq(page.last, 30);
	ck_assert_uint_eq(envelope.seq, 30);
	ask(&(struct cmd_query_events){.after = 25, .has_limit = true, .limit = 5});
	ck_assert_uint_eq(page.events_count, 5);
	ck_assert(!page.more);
	ask(&(struct cmd_query_events){.after = INT64_MAX});
	ck_assert_uint_eq(page.events_count, 0);
	ck_assert(!page.more);
	end();
}
END_TEST

START_TEST(filters_leave_out_the_rest_and_more_counts_only_what_they_let_through)
{
	begin();
	add_events(1, 30, 10);

	ask(&(struct cmd_query_events){.event = "DEVICE_ONLINE", .has_limit = true, .limit = 15});
	ck_assert_uint_eq(page.events_count, 15);
	ck_assert_uint_eq(seq_of(14), 29);
	ck_assert(!page.more);
	ask(&(struct cmd_query_events){.device = "vdb", .has_limit = true, .limit = 9});
	ck_assert_uint_eq(page.events_count, 9);
	ck_assert_uint_eq(seq_of(0), 3);
	ck_assert(page.more);
	ask(&(struct cmd_query_events){.event = "DEVICE_OFFLINE", .device = "vdb"});
	ck_assert_uint_eq(page.events_count, 5);
	ask(&(struct cmd_query_events){.event = "DEVICE"});
	ck_assert_uint_eq(page.events_count, 0);
	ask(&(struct cmd_query_events){.device = "vd"});
	ck_assert_uint_eq(page.events_count, 0);
	end();
}
END_TEST

START_TEST(a_reply_stays_within_a_mebibyte_and_pages_lose_nothing)
{
	uint64_t after = 0;
	unsigned pages = 0;
	begin();
	add_events(1, 700, 3000);

	do {
		ask(&(struct cmd_query_events){.after = after, .has_limit = true, .limit = 10000});
		ck_assert_uint_le(reply.length, 1 << 20);
		ck_assert(page.events_count > 300 || !page.more);
		ck_assert_uint_eq(seq_of(0), after + 1);
		after += page.events_count;
		ck_assert_uint_eq(seq_of(page.events_count - 1), after);
		pages++;
	} while (page.more);

	ck_assert_uint_eq(after, 700);
	ck_assert_uint_eq(pages, 3);
	end();
}
END_TEST

START_TEST(a_thousand_is_the_limit_where_none_is_given)
{
	begin();
	add_events(1, 1500, 10);

	ask(&(struct cmd_query_events){.after = 0});

	ck_assert_uint_eq(page.events_count, 1000);
	ck_assert(page.more);
	end();
}
END_TEST

START_TEST(a_wrong_argument_is_named)
{
	struct wire_buffer arguments = {0};
	begin();
	wire_put_map(&arguments, 2);
	wire_put_str(&arguments, "after");
	wire_put_uint(&arguments, 0);
	wire_put_str(&arguments, "limit");
	wire_put_uint(&arguments, 10001);

	ask_packed(wire_buffer_bytes(&arguments));

	ck_assert(envelope.has_error);
	ck_assert_str_eq(envelope.error.class, "GenericError");
	ck_assert_ptr_nonnull(strstr(envelope.error.desc, "limit"));
	wire_buffer_done(&arguments);
	end();
}
END_TEST

UNIT_MAIN("query_events", an_empty_log_has_no_ends,
	a_page_begins_after_what_is_known_and_says_whether_there_is_more,
	filters_leave_out_the_rest_and_more_counts_only_what_they_let_through,
	a_reply_stays_within_a_mebibyte_and_pages_lose_nothing,
	a_thousand_is_the_limit_where_none_is_given, a_wrong_argument_is_named)
