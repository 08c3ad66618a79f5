/* SPDX-License-Identifier: Apache-2.0 */
/* One view, one pass.  Filters look for the name's bytes in the record before they decode it, so that a rare event among a
 * hundred thousand is found in milliseconds. */
#include "broker/query_events.h"

#include <string.h>

#include "schemas/client_broker.gen.h"
#include "schemas/records.gen.h"
#include "schemas/wire_request.h"

#define LIMIT_DEFAULT	1000
#define REPLY_BYTES_MAX (1U << 20)
#define REPLY_ENVELOPE	256 /* bytes around the events, the request's id apart */

struct search {
	const struct cmd_query_events *wanted;
	struct wire_memory *memory;
	size_t bytes_left;
	struct event_page page;
	uint64_t limit;
};

static void put_be64(unsigned char key[8], uint64_t value)
{
	for (int i = 0; i < 8; i++)
		key[i] = (unsigned char)(value >> (56 - 8 * i));
}

static uint64_t get_be64(const struct store_record *record)
{
	uint64_t value = 0;

	for (size_t i = 0; i < record->key_length && i < 8; i++)
		value = value << 8 | record->key[i];
	return value;
}

static bool may_match(const struct store_record *record, const char *name)
{
	return !name || memmem(record->bytes, record->length, name, strlen(name));
}

/* 1: it is wanted, 0: it is not, -1 and err. */
static int read_event(struct search *search, const struct store_record *record,
	struct record_event *ret_event, struct err *err)
{
	const struct cmd_query_events *wanted = search->wanted;

	if (!may_match(record, wanted->event) || !may_match(record, wanted->device))
		return 0;
	if (record_event_decode(record->bytes, record->length, search->memory, ret_event, err))
		return err_wrap(
			err, "event %llu in the store", (unsigned long long)get_be64(record));
	return (!wanted->event || !strcmp(wanted->event, ret_event->event)) &&
	       (!wanted->device || !strcmp(wanted->device, ret_event->device));
}

/* Whether the page is full without this one. */
static bool is_full(const struct search *search, const struct record_event *event)
{
	return search->page.events_count == search->limit ||
	       event->packed.length > search->bytes_left;
}

static int fill_page(struct search *search, struct store_view *view, struct err *err)
{
	struct event_page *page = &search->page;
	struct store_record record;
	unsigned char key[8];
	int found;

	put_be64(key, search->wanted->after + 1);
	for (found = store_view_seek(view, key, sizeof(key), &record, err); found == 1;
		found = store_view_next(view, &record, err)) {
		struct record_event event;
		int is_wanted = read_event(search, &record, &event, err);

		if (is_wanted < 0)
			return -1;
		if (!is_wanted)
			continue;
		if (is_full(search, &event)) {
			page->more = true;
			return 0;
		}
		page->events[page->events_count++] = event.packed;
		search->bytes_left -= event.packed.length;
	}
	return found;
}

static int find_ends(struct event_page *page, struct store_view *view, struct err *err)
{
	struct store_record record;
	int found = store_view_seek(view, "", 0, &record, err);

	if (found == 1) {
		page->first = get_be64(&record);
		found = store_view_last(view, &record, err);
	}
	if (found == 1)
		page->last = get_be64(&record);
	return found < 0 ? -1 : 0;
}

static void put_page(struct wire_buffer *reply, struct wire_bytes id, const struct event_page *page)
{
	struct wire_buffer packed;

	wire_buffer_init(&packed);
	event_page_encode(page, &packed);
	wire_reply_put(reply, id, page->last, wire_buffer_bytes(&packed));
	wire_buffer_done(&packed);
}

static int answer_from_view(struct store *store, struct search *search, struct wire_bytes id,
	struct wire_buffer *reply, struct err *err)
{
	CLEANUP(store_view_cleanup) struct store_view *view = NULL;

	if (store_view_open(store, STORE_EVENTS, &view, err) ||
		find_ends(&search->page, view, err) || fill_page(search, view, err))
		return -1;
	put_page(reply, id, &search->page);
	return 0;
}

static int answer(struct store *store, uint64_t epoch, struct wire_bytes bytes,
	struct wire_memory *memory, struct wire_buffer *reply, struct err *err)
{
	struct request_envelope request = {0};
	struct cmd_query_events wanted;
	const char *argument = NULL;
	struct err refusal;

	if (wire_request_read(bytes.bytes, bytes.length, memory, &request, &refusal) ||
		cmd_query_events_decode(request.arguments.bytes, request.arguments.length, memory,
			&wanted, &argument, &refusal)) {
		struct wire_name name = {"argument", argument};

		wire_reply_put_error(
			reply, request.id, 0, ERROR_CLASS_GENERIC_ERROR, refusal.text, &name, 1);
		return 0;
	}
	struct search search = {
		.wanted = &wanted,
		.memory = memory,
		.bytes_left = REPLY_BYTES_MAX - REPLY_ENVELOPE - request.id.length,
		.limit = wanted.has_limit ? wanted.limit : LIMIT_DEFAULT,
		.page.epoch = epoch,
	};
	search.page.events = wire_memory_get(memory, search.limit * sizeof(struct wire_bytes));
	return answer_from_view(store, &search, request.id, reply, err);
}

int query_events_answer(struct store *store, uint64_t epoch, const void *request, size_t length,
	struct wire_buffer *reply, struct err *err)
{
	struct wire_memory memory;
	int r;

	wire_memory_init(&memory);
	r = answer(store, epoch, (struct wire_bytes){request, length}, &memory, reply, err);
	wire_memory_done(&memory);
	return r;
}
