/* SPDX-License-Identifier: Apache-2.0 */
/* A ring of effects with their tickets.  Its room doubles as needed; the owner keeps it bounded by taking no more requests. */
#include "broker/settle.h"

#include <stdlib.h>
#include <string.h>

#include "common/check.h"

#define ROOM_MIN 64

struct waiting {
	uint64_t ticket;
	struct effect effect;
};

struct settle {
	settle_perform *perform;
	void *owner;
	struct waiting *ring;
	size_t room, first, count;
	size_t bytes;
};

struct settle *settle_new(settle_perform *perform, void *owner)
{
	struct settle *settle = must_calloc(1, sizeof(*settle));

	settle->perform = perform;
	settle->owner = owner;
	settle->room = ROOM_MIN;
	settle->ring = must_calloc(settle->room, sizeof(*settle->ring));
	return settle;
}

static struct waiting *at(const struct settle *settle, size_t index)
{
	return &settle->ring[(settle->first + index) % settle->room];
}

void settle_free(struct settle *settle)
{
	if (!settle)
		return;
	for (size_t i = 0; i < settle->count; i++)
		free(at(settle, i)->effect.bytes);
	free(settle->ring);
	free(settle);
}

static void make_room(struct settle *settle)
{
	struct waiting *larger = must_calloc(settle->room * 2, sizeof(*larger));

	for (size_t i = 0; i < settle->count; i++)
		larger[i] = *at(settle, i);
	free(settle->ring);
	settle->ring = larger;
	settle->room *= 2;
	settle->first = 0;
}

static size_t memory_of(const struct effect *effect)
{
	return sizeof(struct waiting) + effect->length;
}

void settle_add(struct settle *settle, uint64_t ticket, struct effect *effect)
{
	struct waiting *added;

	bug_if(settle->count && ticket < at(settle, settle->count - 1)->ticket);
	if (settle->count == settle->room)
		make_room(settle);
	added = at(settle, settle->count++);
	added->ticket = ticket;
	added->effect = *effect;
	settle->bytes += memory_of(effect);
	effect->bytes = NULL;
	effect->length = 0;
}

void settle_release(struct settle *settle, uint64_t committed)
{
	while (settle->count && at(settle, 0)->ticket <= committed) {
		struct effect effect = at(settle, 0)->effect;

		settle->first = (settle->first + 1) % settle->room;
		settle->count--;
		settle->bytes -= memory_of(&effect);
		settle->perform(settle->owner, &effect);
		free(effect.bytes);
	}
}

size_t settle_count(const struct settle *settle)
{
	return settle->count;
}

size_t settle_bytes(const struct settle *settle)
{
	return settle->bytes;
}
