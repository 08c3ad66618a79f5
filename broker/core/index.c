/* SPDX-License-Identifier: Apache-2.0 */
/* Open addressing with linear probing; removing moves later entries of the same run back, so
 * there are no tombstones. */
#include "broker/core/index.h"

#include <stdlib.h>
#include <string.h>

#include "common/check.h"

#define SMALLEST_CAPACITY 16

void index_init(struct index *index, uint64_t key)
{
	*index = (struct index){.key = key};
}

void index_done(struct index *index)
{
	free(index->slots);
	*index = (struct index){0};
}

/* The finalizer of splitmix64. */
static uint64_t mix(uint64_t value)
{
	value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
	return value ^ (value >> 31);
}

static uint64_t hash_of(const struct index *index, uint64_t number, const char *name)
{
	uint64_t hash = mix(index->key ^ number);

	if (name != NULL)
		for (; *name; name++)
			hash = mix(hash ^ (unsigned char)*name);
	return hash;
}

static bool is_equal(
	const struct index_slot *slot, uint64_t hash, uint64_t number, const char *name)
{
	if (slot->hash != hash || slot->number != number)
		return false;
	return name == NULL || strcmp(slot->name, name) == 0;
}

/* The slot with that key, or the empty one where it would stand; the table must have an empty
 * one. */
static size_t place_of(const struct index *index, uint64_t hash, uint64_t number, const char *name)
{
	size_t place = hash & (index->capacity - 1);

	while (index->slots[place].object != NULL &&
		!is_equal(&index->slots[place], hash, number, name))
		place = (place + 1) & (index->capacity - 1);
	return place;
}

static void *find(const struct index *index, uint64_t number, const char *name)
{
	if (index->count == 0)
		return NULL;
	return index->slots[place_of(index, hash_of(index, number, name), number, name)].object;
}

static void resize(struct index *index, size_t capacity)
{
	struct index_slot *old = index->slots;
	size_t old_capacity = index->capacity;

	index->slots = must_calloc(capacity, sizeof(*index->slots));
	index->capacity = capacity;
	for (size_t i = 0; i < old_capacity; i++)
		if (old[i].object != NULL)
			index->slots[place_of(index, old[i].hash, old[i].number, old[i].name)] =
				old[i];
	free(old);
}

static void add(struct index *index, uint64_t number, const char *name, void *object)
{
	uint64_t hash = hash_of(index, number, name);
	size_t place;

	if (index->count + 1 > index->capacity - index->capacity / 4)
		resize(index, index->capacity ? 2 * index->capacity : SMALLEST_CAPACITY);
	place = place_of(index, hash, number, name);
	bug_if(index->slots[place].object != NULL);
	index->slots[place] =
		(struct index_slot){.hash = hash, .number = number, .name = name, .object = object};
	index->count++;
}

static void close_gap(struct index *index, size_t gap)
{
	size_t mask = index->capacity - 1;

	for (size_t i = (gap + 1) & mask; index->slots[i].object != NULL; i = (i + 1) & mask) {
		size_t wanted = index->slots[i].hash & mask;

		if (((i - wanted) & mask) >= ((i - gap) & mask)) {
			index->slots[gap] = index->slots[i];
			gap = i;
		}
	}
	index->slots[gap] = (struct index_slot){0};
}

static void remove_entry(struct index *index, uint64_t number, const char *name)
{
	size_t place;

	if (index->count == 0)
		return;
	place = place_of(index, hash_of(index, number, name), number, name);
	if (index->slots[place].object == NULL)
		return;
	close_gap(index, place);
	index->count--;
}

void *index_find(const struct index *index, uint64_t number)
{
	return find(index, number, NULL);
}

void *index_find_name(const struct index *index, const char *name)
{
	return find(index, 0, name);
}

void index_add(struct index *index, uint64_t number, void *object)
{
	add(index, number, NULL, object);
}

void index_add_name(struct index *index, const char *name, void *object)
{
	add(index, 0, name, object);
}

void index_remove(struct index *index, uint64_t number)
{
	remove_entry(index, number, NULL);
}

void index_remove_name(struct index *index, const char *name)
{
	remove_entry(index, 0, name);
}

void *index_next(const struct index *index, size_t *place)
{
	while (*place < index->capacity) {
		void *object = index->slots[(*place)++].object;

		if (object != NULL)
			return object;
	}
	return NULL;
}
