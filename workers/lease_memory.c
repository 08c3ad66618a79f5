/* SPDX-License-Identifier: Apache-2.0 */
/* Two hash sets with open addressing that grow as they fill, up to their half. */
#include "workers/lease_memory.h"

#include <stddef.h>
#include <stdlib.h>

#include "common/check.h"

#define SLOTS_FIRST 1024u /* a power of two */

struct set {
	uint64_t *slots; /* id + 1; 0: free */
	size_t size;	 /* a power of two, at least twice count */
	size_t count;
};

struct lease_memory {
	struct set younger;
	struct set older;
};

static void set_init(struct set *set, size_t size)
{
	set->slots = must_calloc(size, sizeof *set->slots);
	set->size = size;
	set->count = 0;
}

/* The slot that holds the id, or the free one where it belongs. */
static size_t set_place(const struct set *set, uint64_t id)
{
	size_t at = (size_t)((id * UINT64_C(0x9E3779B97F4A7C15)) >> 20) & (set->size - 1);

	while (set->slots[at] && set->slots[at] != id + 1)
		at = (at + 1) & (set->size - 1);
	return at;
}

static bool set_has(const struct set *set, uint64_t id)
{
	return set->slots[set_place(set, id)] != 0;
}

static void set_grow(struct set *set)
{
	struct set larger;

	set_init(&larger, set->size * 2);
	for (size_t i = 0; i < set->size; i++) {
		if (set->slots[i])
			larger.slots[set_place(&larger, set->slots[i] - 1)] = set->slots[i];
	}
	larger.count = set->count;
	free(set->slots);
	*set = larger;
}

static void set_add(struct set *set, uint64_t id)
{
	if ((set->count + 1) * 2 > set->size)
		set_grow(set);
	set->slots[set_place(set, id)] = id + 1;
	set->count++;
}

struct lease_memory *lease_memory_new(void)
{
	struct lease_memory *memory = must_calloc(1, sizeof *memory);

	set_init(&memory->younger, SLOTS_FIRST);
	set_init(&memory->older, SLOTS_FIRST);
	return memory;
}

void lease_memory_free(struct lease_memory *memory)
{
	if (!memory)
		return;
	free(memory->younger.slots);
	free(memory->older.slots);
	free(memory);
}

bool lease_memory_knows(const struct lease_memory *memory, uint64_t lease)
{
	return set_has(&memory->younger, lease) || set_has(&memory->older, lease);
}

void lease_memory_add(struct lease_memory *memory, uint64_t lease)
{
	if (lease_memory_knows(memory, lease))
		return;
	if (memory->younger.count == LEASE_MEMORY_HALF) {
		free(memory->older.slots);
		memory->older = memory->younger;
		set_init(&memory->younger, SLOTS_FIRST);
	}
	set_add(&memory->younger, lease);
}
