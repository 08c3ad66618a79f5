/* SPDX-License-Identifier: Apache-2.0 */
/* Finding an object by its number or by its name: hash tables that hold pointers and own
 * nothing.  Numbers that a peer draws are mixed with a key of the table, so that nobody can
 * choose many that collide. */
#ifndef SLUICE_BROKER_CORE_INDEX_H
#define SLUICE_BROKER_CORE_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct index_slot {
	uint64_t hash;
	uint64_t number;
	const char *name; /* NULL in an index of numbers; else it belongs to the object */
	void *object;	  /* NULL: empty */
};

struct index {
	struct index_slot *slots;
	size_t count, capacity;
	uint64_t key;
};

void index_init(struct index *index, uint64_t key);
void index_done(struct index *index);

/* The object, or NULL. */
void *index_find(const struct index *index, uint64_t number);
void *index_find_name(const struct index *index, const char *name);
/* There must be none of that number or name yet.  The name must live as long as the entry. */
void index_add(struct index *index, uint64_t number, void *object);
void index_add_name(struct index *index, const char *name, void *object);
/* Nothing happens where there is none. */
void index_remove(struct index *index, uint64_t number);
void index_remove_name(struct index *index, const char *name);
/* The entries in no order: start with *place 0 until it returns NULL.  Do not add or remove
 * meanwhile. */
void *index_next(const struct index *index, size_t *place);

#endif
