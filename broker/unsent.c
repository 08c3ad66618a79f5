/* SPDX-License-Identifier: Apache-2.0 */
/* A list in the order of arrival.  A pass that sent something is followed by another soon; each that sent nothing doubles the pause, so
 * that a client that never reads costs little. */
#include "broker/unsent.h"

#include <stdlib.h>
#include <string.h>

#include "common/check.h"

#define PAUSE_MS_MIN 2
#define PAUSE_MS_MAX 128
#define CLIENTS	     1024 /* buckets of clients */

struct reply {
	struct reply *next;
	uint64_t number;
	uint64_t since_ms;
	uint32_t client; /* its bucket */
	size_t length;
	unsigned char bytes[];
};

struct unsent {
	struct unsent_options options;
	struct reply *first, **end;
	size_t count, bytes;
	size_t of_client[CLIENTS];
	uint64_t retry_at_ms, pause_ms;
};

struct unsent *unsent_new(const struct unsent_options *options)
{
	struct unsent *unsent = must_calloc(1, sizeof(*unsent));

	unsent->options = *options;
	unsent->end = &unsent->first;
	unsent->retry_at_ms = UINT64_MAX;
	return unsent;
}

void unsent_free(struct unsent *unsent)
{
	if (!unsent)
		return;
	while (unsent->first) {
		struct reply *next = unsent->first->next;

		free(unsent->first);
		unsent->first = next;
	}
	free(unsent);
}

static size_t memory_of(const struct reply *reply)
{
	return sizeof(*reply) + reply->length;
}

/* Takes the reply that `link` points to out of the list. */
static void take_out(struct unsent *unsent, struct reply **link)
{
	struct reply *reply = *link;

	*link = reply->next;
	if (!*link)
		unsent->end = link;
	unsent->count--;
	unsent->of_client[reply->client]--;
	unsent->bytes -= memory_of(reply);
	free(reply);
}

static void drop_first(struct unsent *unsent)
{
	unsent->options.drop(unsent->options.owner, unsent->first->number);
	take_out(unsent, &unsent->first);
}

void unsent_add(struct unsent *unsent, uint64_t now_ms, uint32_t client, uint64_t number,
	const void *bytes, size_t length)
{
	struct reply *reply;

	client %= CLIENTS;
	if (unsent->of_client[client] == unsent->options.client_max) {
		unsent->options.drop(unsent->options.owner, number);
		return;
	}
	reply = must_calloc(1, sizeof(*reply) + length);
	reply->client = client;
	unsent->of_client[client]++;
	reply->number = number;
	reply->since_ms = now_ms;
	reply->length = length;
	memcpy(reply->bytes, bytes, length);
	*unsent->end = reply;
	unsent->end = &reply->next;
	unsent->count++;
	unsent->bytes += memory_of(reply);
	while (unsent->bytes > unsent->options.bytes_max && unsent->count > 1)
		drop_first(unsent);
	if (unsent->retry_at_ms == UINT64_MAX) {
		unsent->pause_ms = PAUSE_MS_MIN;
		unsent->retry_at_ms = now_ms + PAUSE_MS_MIN;
	}
}

static size_t try_all(struct unsent *unsent)
{
	struct reply **link = &unsent->first;
	size_t count_before = unsent->count;

	while (*link) {
		struct reply *reply = *link;

		if (unsent->options.try_to_send(
			    unsent->options.owner, reply->number, reply->bytes, reply->length))
			take_out(unsent, link);
		else
			link = &reply->next;
	}
	return count_before - unsent->count;
}

uint64_t unsent_retry(struct unsent *unsent, uint64_t now_ms)
{
	if (now_ms < unsent->retry_at_ms)
		return unsent->retry_at_ms;
	if (try_all(unsent))
		unsent->pause_ms = PAUSE_MS_MIN;
	else if (unsent->pause_ms < PAUSE_MS_MAX)
		unsent->pause_ms *= 2;
	while (unsent->first && now_ms - unsent->first->since_ms > unsent->options.age_max_ms)
		drop_first(unsent);
	unsent->retry_at_ms = unsent->first ? now_ms + unsent->pause_ms : UINT64_MAX;
	return unsent->retry_at_ms;
}

size_t unsent_count(const struct unsent *unsent)
{
	return unsent->count;
}
