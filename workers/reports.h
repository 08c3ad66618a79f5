/* SPDX-License-Identifier: Apache-2.0 */
/* What this worker has to say about leases until the broker has acknowledged it: one report a lease, packed, said again after
 * every welcome. */
#ifndef SLUICE_WORKERS_REPORTS_H
#define SLUICE_WORKERS_REPORTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct reports;

struct report {
	uint64_t lease;
	void *bytes; /* the packed message */
	size_t length;
};

struct reports *reports_new(void);
void reports_free(struct reports *reports); /* NULL is fine */
/* Keeps a copy of the packed message.  There must be none on this lease yet. */
const struct report *reports_add(
	struct reports *reports, uint64_t lease, const void *bytes, size_t length);
/* The report on a lease, NULL if there is none.  Valid until the next add or forget. */
const struct report *reports_find(const struct reports *reports, uint64_t lease);
/* False: there was none. */
bool reports_forget(struct reports *reports, uint64_t lease);
size_t reports_count(const struct reports *reports);
/* The oldest is 0. */
const struct report *reports_at(const struct reports *reports, size_t index);

#endif
