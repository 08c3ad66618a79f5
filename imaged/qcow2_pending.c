/* SPDX-License-Identifier: Apache-2.0 */
/* A fixed array of slots with hash chains and a free list beside it: what outlives the process is the array alone. */
#include "imaged/qcow2_pending.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "common/check.h"

#define NO_SLOT	     UINT32_MAX
#define BUCKET_COUNT (PENDING_SLOTS * 2)

/* Everything stored before is in the slot by then: the compiler keeps the order, and a process dies between two instructions. */
static void store_last(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static void store_first(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

static uint32_t bucket_of(uint64_t cluster)
{
	return (uint32_t)((cluster * UINT64_C(0x9e3779b97f4a7c15)) >> 40) % BUCKET_COUNT;
}

static uint64_t table_of(const struct pending *pending, uint64_t cluster)
{
	return cluster >> (pending->cluster_bits - 3);
}

static void index_slot(struct pending *pending, uint32_t i)
{
	uint64_t cluster = pending->slots[i].cluster - 1;
	uint32_t *bucket = &pending->buckets[bucket_of(cluster)];

	pending->next[i] = *bucket;
	*bucket = i;
	pending->count++;
	pending->in_table[table_of(pending, cluster)]++;
}

struct pending *pending_new(struct pending_slot *slots, unsigned cluster_bits, uint32_t l1_entries)
{
	struct pending *pending = must_calloc(1, sizeof(*pending));

	pending->slots = slots;
	pending->cluster_bits = cluster_bits;
	pending->next = must_calloc(PENDING_SLOTS, sizeof(*pending->next));
	pending->version = must_calloc(PENDING_SLOTS, sizeof(*pending->version));
	pending->buckets = must_calloc(BUCKET_COUNT, sizeof(*pending->buckets));
	pending->in_table = must_calloc(l1_entries ? l1_entries : 1, sizeof(*pending->in_table));
	for (uint32_t i = 0; i < BUCKET_COUNT; i++)
		pending->buckets[i] = NO_SLOT;
	pending->first_free = NO_SLOT;
	for (uint32_t i = PENDING_SLOTS; i-- > 0;) {
		if (slots[i].cluster != 0) {
			index_slot(pending, i);
			continue;
		}
		pending->next[i] = pending->first_free;
		pending->first_free = i;
	}
	return pending;
}

void pending_free(struct pending *pending)
{
	if (!pending)
		return;
	free(pending->next);
	free(pending->version);
	free(pending->buckets);
	free(pending->in_table);
	free(pending);
}

struct pending_slot *pending_find(const struct pending *pending, uint64_t cluster)
{
	uint32_t i;

	if (!pending || pending->count == 0)
		return NULL;
	i = pending->buckets[bucket_of(cluster)];
	while (i != NO_SLOT && pending->slots[i].cluster != cluster + 1)
		i = pending->next[i];
	return i == NO_SLOT ? NULL : &pending->slots[i];
}

unsigned pending_in_table(const struct pending *pending, uint64_t l1_index)
{
	return pending && pending->count > 0 ? pending->in_table[l1_index] : 0;
}

uint32_t pending_version(const struct pending *pending, const struct pending_slot *slot)
{
	return pending->version[slot - pending->slots];
}

uint32_t pending_promise(struct pending *pending, uint32_t wanted)
{
	uint32_t room = PENDING_SLOTS - pending->count - pending->promised;

	if (wanted > room)
		wanted = room;
	pending->promised += wanted;
	return wanted;
}

void pending_unpromise(struct pending *pending, uint32_t count)
{
	bug_if(pending->promised < count);
	pending->promised -= count;
}

void pending_put(struct pending *pending, uint64_t cluster, uint64_t entry, uint64_t in_file)
{
	struct pending_slot *slot = pending_find(pending, cluster);
	uint32_t i;

	pending_unpromise(pending, 1);
	if (slot) {
		pending->version[slot - pending->slots]++;
		store_last(&slot->entry, entry);
		return;
	}
	i = pending->first_free;
	bug_if(i == NO_SLOT);
	pending->first_free = pending->next[i];
	pending->version[i]++;
	slot = &pending->slots[i];
	slot->entry = entry;
	slot->in_file = in_file;
	slot->on_its_way = in_file;
	store_last(&slot->cluster, cluster + 1);
	index_slot(pending, i);
}

static void free_slot(struct pending *pending, struct pending_slot *slot)
{
	uint32_t i = (uint32_t)(slot - pending->slots);
	uint64_t cluster = slot->cluster - 1;
	uint32_t *link = &pending->buckets[bucket_of(cluster)];

	while (*link != i)
		link = &pending->next[*link];
	*link = pending->next[i];
	pending->count--;
	pending->in_table[table_of(pending, cluster)]--;
	store_first(&slot->cluster, 0);
	pending->next[i] = pending->first_free;
	pending->first_free = i;
}

void pending_in_file(struct pending *pending, struct pending_slot *slot, uint64_t entry)
{
	if (slot->entry == entry)
		free_slot(pending, slot);
	else
		store_last(&slot->in_file, entry);
}
