/* SPDX-License-Identifier: Apache-2.0 */
/* A fixed number of slots, hash chains through them, and a clock hand that spares what was used since it last came by. */
#include "imaged/qcow2_l2_cache.h"

#include <stdbool.h>
#include <stdlib.h>

#include "common/check.h"

#define CACHE_BYTES (2u << 20)
#define NO_SLOT	    UINT32_MAX
#define NO_TABLE    UINT64_MAX

struct slot {
	uint64_t table_offset; /* NO_TABLE: free */
	uint64_t *table;       /* NULL until first used */
	uint32_t next;	       /* in the same bucket */
	bool recently_used;
};

struct l2_cache {
	unsigned cluster_bits;
	uint32_t count; /* slots, and as many buckets */
	uint32_t hand;
	struct slot *slots;
	uint32_t *buckets;
};

static uint32_t slots_for(unsigned cluster_bits, uint32_t tables)
{
	uint32_t count = CACHE_BYTES >> cluster_bits;

	if (count < 2)
		count = 2;
	if (count > tables)
		count = tables;
	return count ? count : 1;
}

struct l2_cache *l2_cache_new(unsigned cluster_bits, uint32_t tables)
{
	struct l2_cache *cache = must_calloc(1, sizeof(*cache));

	cache->cluster_bits = cluster_bits;
	cache->count = slots_for(cluster_bits, tables);
	cache->slots = must_calloc(cache->count, sizeof(*cache->slots));
	cache->buckets = must_calloc(cache->count, sizeof(*cache->buckets));
	for (uint32_t i = 0; i < cache->count; i++) {
		cache->slots[i].table_offset = NO_TABLE;
		cache->buckets[i] = NO_SLOT;
	}
	return cache;
}

void l2_cache_free(struct l2_cache *cache)
{
	if (!cache)
		return;
	for (uint32_t i = 0; i < cache->count; i++)
		free(cache->slots[i].table);
	free(cache->slots);
	free(cache->buckets);
	free(cache);
}

static uint32_t *bucket_of(struct l2_cache *cache, uint64_t table_offset)
{
	return &cache->buckets[(table_offset >> cache->cluster_bits) % cache->count];
}

static uint32_t find_slot(struct l2_cache *cache, uint64_t table_offset)
{
	uint32_t i = *bucket_of(cache, table_offset);

	while (i != NO_SLOT && cache->slots[i].table_offset != table_offset)
		i = cache->slots[i].next;
	return i;
}

uint64_t *l2_cache_find(struct l2_cache *cache, uint64_t table_offset)
{
	uint32_t i = find_slot(cache, table_offset);

	if (i == NO_SLOT)
		return NULL;
	cache->slots[i].recently_used = true;
	return cache->slots[i].table;
}

static void empty_slot(struct l2_cache *cache, uint32_t i)
{
	uint32_t *link = bucket_of(cache, cache->slots[i].table_offset);

	while (*link != i)
		link = &cache->slots[*link].next;
	*link = cache->slots[i].next;
	cache->slots[i].table_offset = NO_TABLE;
	cache->slots[i].recently_used = false;
}

/* Ends within two rounds: the first takes away every mark. */
static uint32_t next_victim(struct l2_cache *cache)
{
	for (;;) {
		uint32_t i = cache->hand;

		cache->hand = (cache->hand + 1) % cache->count;
		if (!cache->slots[i].recently_used)
			return i;
		cache->slots[i].recently_used = false;
	}
}

uint64_t *l2_cache_add(struct l2_cache *cache, uint64_t table_offset)
{
	uint32_t i = next_victim(cache);
	struct slot *slot = &cache->slots[i];
	uint32_t *bucket = bucket_of(cache, table_offset);

	bug_if(find_slot(cache, table_offset) != NO_SLOT);
	if (slot->table_offset != NO_TABLE)
		empty_slot(cache, i);
	if (!slot->table)
		slot->table = must_calloc(1, 1ul << cache->cluster_bits);
	slot->table_offset = table_offset;
	slot->recently_used = false; /* until it is found: one pass over the disk drives nothing else out */
	slot->next = *bucket;
	*bucket = i;
	return slot->table;
}

void l2_cache_forget(struct l2_cache *cache, uint64_t table_offset)
{
	uint32_t i = find_slot(cache, table_offset);

	if (i != NO_SLOT)
		empty_slot(cache, i);
}
