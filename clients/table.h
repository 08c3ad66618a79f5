/* SPDX-License-Identifier: Apache-2.0 */
/* Rows and columns for people.  On a terminal a table is never wider than it: the last column is cut, with an ellipsis. */
#ifndef SLUICE_CLIENTS_TABLE_H
#define SLUICE_CLIENTS_TABLE_H

#include <stddef.h>
#include <stdio.h>

#include "common/cleanup.h"

struct table;

#define TABLE_COLUMNS_MAX 12

/* `titles` ends with NULL; one that begins with '>' is of a column of numbers, set to the right. */
struct table *table_new(const char *const *titles);
void table_free(struct table *table); /* NULL is fine */
DEFINE_CLEANUP(table, table_free)

/* The next cell, left to right and row by row; the text is copied, what would disturb a terminal is left out. */
void table_add(struct table *table, const char *text);
/* `width` 0: as wide as it needs. */
void table_print(const struct table *table, FILE *stream, size_t width);
/* Columns of the terminal behind the stream; 0: it is none. */
size_t table_terminal_width(FILE *stream);

#endif
