/* SPDX-License-Identifier: Apache-2.0 */
/* A sorted array: ids ascend as they are drawn, so a new one goes to the end. */
#include "imaged/lease.h"

#include <stdlib.h>
#include <string.h>

#include "common/check.h"

void lease_table_init(struct lease_table *table)
{
	*table = (struct lease_table){0};
	pthread_mutex_init(&table->lock, NULL);
}

static void lease_free(struct lease *lease)
{
	free(lease->runs);
	free(lease->touched);
	free(lease);
}

void lease_table_done(struct lease_table *table)
{
	for (size_t i = 0; i < table->count; i++)
		lease_free(table->leases[i]);
	free(table->leases);
	pthread_mutex_destroy(&table->lock);
}

uint64_t lease_clusters(const struct lease *lease)
{
	return (lease->length + lease->cluster_size - 1) / lease->cluster_size;
}

uint64_t lease_host_bytes(const struct lease *lease)
{
	return lease_clusters(lease) * lease->cluster_size;
}

static struct lease *copy_of(const struct lease *lease)
{
	struct lease *copy = must_calloc(1, sizeof *copy);

	*copy = *lease;
	copy->runs = must_calloc(lease->run_count, sizeof copy->runs[0]);
	memcpy(copy->runs, lease->runs, lease->run_count * sizeof copy->runs[0]);
	copy->touched = must_calloc(1, lease_clusters(lease) / 8 + 1);
	copy->is_quarantined = false;
	return copy;
}

struct lease *lease_table_add(struct lease_table *table, const struct lease *lease)
{
	struct lease *copy = copy_of(lease);

	pthread_mutex_lock(&table->lock);
	bug_if(table->count > 0 && table->leases[table->count - 1]->id >= lease->id);
	if (table->count == table->room) {
		table->room = table->room ? table->room * 2 : 16;
		table->leases = must_realloc(table->leases, table->room, sizeof table->leases[0]);
	}
	table->leases[table->count++] = copy;
	table->open++;
	pthread_mutex_unlock(&table->lock);
	return copy;
}

/* Index of the first lease whose id is not below. */
static size_t lower_bound(const struct lease_table *table, uint64_t id)
{
	size_t low = 0, high = table->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (table->leases[middle]->id < id)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

struct lease *lease_table_find(struct lease_table *table, uint64_t id)
{
	size_t index = lower_bound(table, id);

	if (index == table->count || table->leases[index]->id != id)
		return NULL;
	return table->leases[index];
}

void lease_table_quarantine(struct lease_table *table, struct lease *lease)
{
	pthread_mutex_lock(&table->lock);
	if (!lease->is_quarantined) {
		lease->is_quarantined = true;
		table->open--;
		table->quarantined_bytes += lease_host_bytes(lease);
	}
	pthread_mutex_unlock(&table->lock);
}

void lease_table_remove(struct lease_table *table, struct lease *lease)
{
	size_t index;

	pthread_mutex_lock(&table->lock);
	index = lower_bound(table, lease->id);
	bug_if(index == table->count || table->leases[index] != lease);
	memmove(&table->leases[index], &table->leases[index + 1],
		(table->count - index - 1) * sizeof table->leases[0]);
	table->count--;
	if (lease->is_quarantined)
		table->quarantined_bytes -= lease_host_bytes(lease);
	else
		table->open--;
	pthread_mutex_unlock(&table->lock);
	lease_free(lease);
}

struct lease *lease_table_next(struct lease_table *table, uint64_t join, size_t *position)
{
	while (*position < table->count) {
		struct lease *lease = table->leases[(*position)++];

		if (join == 0 || lease->join == join)
			return lease;
	}
	return NULL;
}

static void touch(struct lease *lease, uint64_t offset, uint64_t end)
{
	uint64_t lease_end = lease->offset + lease->length;
	uint64_t first, last;

	if (lease->is_quarantined || end <= lease->offset || offset >= lease_end)
		return;
	if (offset < lease->offset)
		offset = lease->offset;
	if (end > lease_end)
		end = lease_end;
	first = (offset - lease->offset) / lease->cluster_size;
	last = (end - 1 - lease->offset) / lease->cluster_size;
	for (uint64_t i = first; i <= last; i++)
		lease->touched[i / 8] |= (unsigned char)(1U << (i % 8));
}

void lease_table_touch(struct lease_table *table, uint64_t offset, uint64_t length)
{
	if (length == 0)
		return;
	pthread_mutex_lock(&table->lock);
	for (size_t i = 0; i < table->count; i++)
		touch(table->leases[i], offset, offset + length);
	pthread_mutex_unlock(&table->lock);
}

bool lease_is_touched(struct lease_table *table, const struct lease *lease, uint64_t guest_offset)
{
	uint64_t cluster = (guest_offset - lease->offset) / lease->cluster_size;
	bool is_touched;

	pthread_mutex_lock(&table->lock);
	is_touched = lease->touched[cluster / 8] >> (cluster % 8) & 1U;
	pthread_mutex_unlock(&table->lock);
	return is_touched;
}
