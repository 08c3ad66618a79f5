/* SPDX-License-Identifier: Apache-2.0 */
/* A command line from a table, which also prints --help.  Every program has --help, --version,
 * --log-level and --log-format; they need not stand in its table. */
#ifndef SLUICE_COMMON_OPTIONS_H
#define SLUICE_COMMON_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum option_kind {
	OPTION_FLAG,  /* bool: --name */
	OPTION_TEXT,  /* const char *: --name VALUE or --name=VALUE; points into argv */
	OPTION_LIST,  /* struct option_list: repeatable text */
	OPTION_NUMBER /* uint64_t within minimum..maximum; K, M, G, T (powers of 1024) accepted
			 where `is_size` */
};

#define OPTION_LIST_MAX 256
struct option_list {
	const char *values[OPTION_LIST_MAX];
	size_t count;
};

struct option {
	const char *name; /* without dashes; NULL ends the table */
	enum option_kind kind;
	void *value;	      /* of the kind's type; holds the default beforehand */
	const char *argument; /* what --help calls the value: "DIR" */
	const char *help;     /* one sentence, with the default */
	uint64_t minimum, maximum;
	bool is_size;
};

struct options_usage {
	const char *program;		     /* "sluice-worker" */
	const char *synopsis;		     /* what follows the name in the usage line */
	const char *about;		     /* what it does: one sentence or a paragraph */
	size_t arguments_min, arguments_max; /* how many non-options */
};

/* Parses; non-options land in `ret_arguments` (at least usage->arguments_max long).  Exits by
 * itself for --help and --version (0) and for wrong usage (2, one line on stderr); sets the log up
 * otherwise.  Returns the number of non-options. */
size_t options_parse(int argc, char **argv, const struct options_usage *usage,
	const struct option *table, const char **ret_arguments);

#endif
