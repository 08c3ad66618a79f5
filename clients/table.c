/* SPDX-License-Identifier: Apache-2.0 */
/* Widths are counted in characters, as UTF-8 has them; wide ones of East Asia are not told apart. */
#include "clients/table.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/check.h"

#define GAP 2

struct table {
	const char *titles[TABLE_COLUMNS_MAX];
	bool is_number[TABLE_COLUMNS_MAX];
	size_t columns;
	char **cells;
	size_t count, room;
};

struct table *table_new(const char *const *titles)
{
	struct table *table = must_calloc(1, sizeof *table);

	for (; titles[table->columns]; table->columns++) {
		const char *title = titles[table->columns];
		bug_if(table->columns == TABLE_COLUMNS_MAX);
		table->is_number[table->columns] = title[0] == '>';
		table->titles[table->columns] = title[0] == '>' ? title + 1 : title;
	}
	return table;
}

void table_free(struct table *table)
{
	if (!table)
		return;
	for (size_t i = 0; i < table->count; i++)
		free(table->cells[i]);
	free(table->cells);
	free(table);
}

void table_add(struct table *table, const char *text)
{
	if (table->count == table->room) {
		table->room = table->room ? table->room * 2 : 64;
		table->cells = must_realloc(table->cells, table->room, sizeof(char *));
	}
	char *cell = must_strdup(text);
	for (char *c = cell; *c; c++) {
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			*c = '?';
	}
	table->cells[table->count++] = cell;
}

static bool begins_character(char byte)
{
	return ((unsigned char)byte & 0xc0) != 0x80;
}

static size_t characters(const char *text)
{
	size_t count = 0;

	for (; *text; text++)
		count += begins_character(*text);
	return count;
}

/* Bytes of the first `wanted` characters. */
static size_t bytes_of(const char *text, size_t wanted)
{
	size_t i = 0;

	for (; text[i]; i++) {
		if (begins_character(text[i]) && wanted-- == 0)
			break;
	}
	return i;
}

static void measure(const struct table *table, size_t *ret_widths)
{
	for (size_t i = 0; i < table->columns; i++)
		ret_widths[i] = characters(table->titles[i]);
	for (size_t i = 0; i < table->count; i++) {
		size_t width = characters(table->cells[i]);
		if (width > ret_widths[i % table->columns])
			ret_widths[i % table->columns] = width;
	}
}

/* Takes from the last column what is too much. */
static void fit(const struct table *table, size_t width, size_t *widths)
{
	size_t last = table->columns - 1;
	size_t before = 0;

	for (size_t i = 0; i < last; i++)
		before += widths[i] + GAP;
	if (width == 0 || before + widths[last] <= width)
		return;
	size_t least = characters(table->titles[last]);
	widths[last] = width > before + least ? width - before : least;
}

static void print_cell(const char *text, size_t width, bool is_number, bool is_last, FILE *stream)
{
	size_t has = characters(text);

	if (has > width) {
		fprintf(stream, "%.*s…", (int)bytes_of(text, width - 1), text);
		has = width;
	} else if (is_number) {
		fprintf(stream, "%*s%s", (int)(width - has), "", text);
	} else {
		fputs(text, stream);
	}
	if (is_last)
		fputc('\n', stream);
	else
		fprintf(stream, "%*s", (int)(is_number ? GAP : width - has + GAP), "");
}

void table_print(const struct table *table, FILE *stream, size_t width)
{
	size_t widths[TABLE_COLUMNS_MAX];
	size_t last = table->columns - 1;

	measure(table, widths);
	fit(table, width, widths);
	for (size_t i = 0; i <= last; i++)
		print_cell(table->titles[i], widths[i], table->is_number[i], i == last, stream);
	for (size_t i = 0; i < table->count; i++) {
		size_t column = i % table->columns;
		print_cell(table->cells[i], widths[column], table->is_number[column],
			column == last, stream);
	}
}

size_t table_terminal_width(FILE *stream)
{
	struct winsize size;

	if (!isatty(fileno(stream)))
		return 0;
	if (ioctl(fileno(stream), TIOCGWINSZ, &size) < 0 || size.ws_col == 0)
		return 80;
	return size.ws_col;
}
