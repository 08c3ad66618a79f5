/* SPDX-License-Identifier: Apache-2.0 */
/* A list in the order of the reports; short, because the broker acknowledges each at once while it is there, and gives no
 * orders while it is away. */
#include "workers/reports.h"

#include <stdlib.h>
#include <string.h>

#include "common/check.h"

struct reports {
	struct report *items;
	size_t count;
	size_t room;
};

struct reports *reports_new(void)
{
	return must_calloc(1, sizeof(struct reports));
}

void reports_free(struct reports *reports)
{
	if (!reports)
		return;
	for (size_t i = 0; i < reports->count; i++)
		free(reports->items[i].bytes);
	free(reports->items);
	free(reports);
}

const struct report *reports_add(
	struct reports *reports, uint64_t lease, const void *bytes, size_t length)
{
	bug_if(reports_find(reports, lease) != NULL);
	if (reports->count == reports->room) {
		reports->room = reports->room ? reports->room * 2 : 16;
		reports->items =
			must_realloc(reports->items, reports->room, sizeof *reports->items);
	}
	struct report *report = &reports->items[reports->count++];
	*report = (struct report){
		.lease = lease, .bytes = must_calloc(1, length ? length : 1), .length = length};
	if (length)
		memcpy(report->bytes, bytes, length);
	return report;
}

const struct report *reports_find(const struct reports *reports, uint64_t lease)
{
	for (size_t i = 0; i < reports->count; i++) {
		if (reports->items[i].lease == lease)
			return &reports->items[i];
	}
	return NULL;
}

bool reports_forget(struct reports *reports, uint64_t lease)
{
	const struct report *report = reports_find(reports, lease);
	if (!report)
		return false;

	size_t index = (size_t)(report - reports->items);
	free(reports->items[index].bytes);
	reports->count--;
	memmove(&reports->items[index], &reports->items[index + 1],
		(reports->count - index) * sizeof *reports->items);
	return true;
}

size_t reports_count(const struct reports *reports)
{
	return reports->count;
}

const struct report *reports_at(const struct reports *reports, size_t index)
{
	bug_if(index >= reports->count);
	return &reports->items[index];
}
