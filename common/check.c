/* SPDX-License-Identifier: Apache-2.0 */
/* How a process ends when it is itself wrong. */
#include "common/check.h"

#include <stdlib.h>
#include <string.h>

#include "common/log.h"

void bug(const char *file, int line, const char *condition)
{
	log_error("bug at %s:%d: %s; ending", file, line, condition);
	abort();
}

static NORETURN void out_of_memory(unsigned long count, unsigned long size)
{
	log_error("out of memory: %lu times %lu bytes; ending", count, size);
	abort();
}

void *must_calloc(unsigned long count, unsigned long size)
{
	void *memory = calloc(count ? count : 1, size ? size : 1);

	if (!memory)
		out_of_memory(count, size);
	return memory;
}

void *must_realloc(void *old, unsigned long count, unsigned long size)
{
	void *memory = reallocarray(old, count ? count : 1, size ? size : 1);

	if (!memory)
		out_of_memory(count, size);
	return memory;
}

char *must_strdup(const char *text)
{
	char *copy = strdup(text);

	if (!copy)
		out_of_memory(1, strlen(text) + 1);
	return copy;
}
