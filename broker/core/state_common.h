/* SPDX-License-Identifier: Apache-2.0 */
/* What several objects of the core are made of. */
#ifndef SLUICE_BROKER_CORE_STATE_COMMON_H
#define SLUICE_BROKER_CORE_STATE_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/attributes.h"
#include "schemas/wire.h"

#define NAME_SIZE 65 /* bytes of a name with its NUL */

/* A name that was checked where it came in. */
void name_copy(char *ret_name, const char *name);
/* An owned copy, or NULL of NULL. */
char *text_copy(const char *text) MUST_CHECK;

/* Who is at the other end of a connection; `number` 0: nobody now. */
struct peer {
	uint64_t number;
	struct worker *worker; /* one of the two */
	struct imaged *imaged;
	uint64_t heard_ms;
};

/* A few numbers. */
struct id_list {
	uint64_t *ids;
	size_t count, capacity;
};
bool id_list_has(const struct id_list *list, uint64_t id);
void id_list_add(struct id_list *list, uint64_t id);
void id_list_remove(struct id_list *list, uint64_t id);
void id_list_done(struct id_list *list);

#endif
