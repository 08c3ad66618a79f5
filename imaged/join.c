/* SPDX-License-Identifier: Apache-2.0 */
#include "imaged/join.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"

void join_table_done(struct join_table *table)
{
	for (size_t i = 0; i < table->count; i++)
		free(table->joins[i]);
	free(table->joins);
	*table = (struct join_table){0};
}

struct join *join_table_add(struct join_table *table, uint64_t id, const char *worker,
	uint64_t incarnation, uint64_t lock_byte, const struct chain *chain)
{
	struct join *join = must_calloc(1, sizeof *join);

	join->id = id;
	join->incarnation = incarnation;
	join->lock_byte = lock_byte;
	snprintf(join->worker, sizeof join->worker, "%s", worker);
	for (size_t i = 1; i < chain->count; i++) {
		join->sources[join->source_count++] = (struct join_source){
			.device = chain->layers[i].device, .inode = chain->layers[i].inode};
	}
	if (table->count == table->room) {
		table->room = table->room ? table->room * 2 : 8;
		table->joins = must_realloc(table->joins, table->room, sizeof table->joins[0]);
	}
	table->joins[table->count++] = join;
	return join;
}

struct join *join_table_find(const struct join_table *table, uint64_t id)
{
	for (size_t i = 0; i < table->count; i++) {
		if (table->joins[i]->id == id)
			return table->joins[i];
	}
	return NULL;
}

struct join *join_table_of_worker(
	const struct join_table *table, const char *worker, uint64_t incarnation)
{
	for (size_t i = 0; i < table->count; i++) {
		struct join *join = table->joins[i];

		if (join->state != JOIN_ENDED && join->incarnation == incarnation &&
			strcmp(join->worker, worker) == 0)
			return join;
	}
	return NULL;
}

bool join_table_has_byte(const struct join_table *table, uint64_t lock_byte)
{
	for (size_t i = 0; i < table->count; i++) {
		if (table->joins[i]->lock_byte == lock_byte)
			return true;
	}
	return false;
}

size_t join_table_active(const struct join_table *table)
{
	size_t active = 0;

	for (size_t i = 0; i < table->count; i++)
		active += table->joins[i]->state != JOIN_ENDED;
	return active;
}

void join_table_remove(struct join_table *table, struct join *join)
{
	size_t i = 0;

	while (i < table->count && table->joins[i] != join)
		i++;
	bug_if(i == table->count);
	table->joins[i] = table->joins[--table->count];
	free(join);
}

int join_source_index(const struct join *join, const struct chain_layer *layer)
{
	for (size_t i = 0; i < join->source_count; i++) {
		if (join->sources[i].device == layer->device &&
			join->sources[i].inode == layer->inode)
			return (int)i;
	}
	return -1;
}
