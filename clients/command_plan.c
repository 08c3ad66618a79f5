/* SPDX-License-Identifier: Apache-2.0 */
/* sluice plan and map: what a job would do, and where a device's bytes are. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients/command.h"
#include "clients/format.h"
#include "clients/json_convert.h"
#include "clients/table.h"
#include "common/check.h"

static void show_figure(const char *title, uint64_t bytes)
{
	printf("%-18s %s\n", title, format_bytes(bytes).is);
}

static void show_plan(const json_t *plan, void *owner UNUSED)
{
	const char *const titles[] = {">COPY", "FROM", NULL};
	CLEANUP(table_cleanup) struct table *table = table_new(titles);
	const json_t *layers = json_object_get(plan, "layers");
	const json_t *chain = json_object_get(plan, "chain");
	size_t index;
	const json_t *layer;

	show_figure("to copy", json_number(plan, "copy"));
	show_figure("to become zeroes", json_number(plan, "zeroes"));
	show_figure("in the leaf", json_number(plan, "present"));
	show_figure("held nowhere", json_number(plan, "holes"));
	show_figure("the leaf grows by", json_number(plan, "leaf-growth"));
	show_figure("free space there", json_number(plan, "space-free"));
	json_array_foreach(chain, index, layer) printf(
		"%-18s %s\n", index == 0 ? "chain afterwards" : "", json_text(layer, "file"));
	if (json_array_size(layers) == 0)
		return;
	json_array_foreach(layers, index, layer)
	{
		table_add(table, format_bytes(json_number(layer, "copy")).is);
		table_add(table, json_text(layer, "file"));
	}
	putchar('\n');
	table_print(table, stdout, table_terminal_width(stdout));
}

int command_plan(int argc, char **argv)
{
	struct connection_settings settings = {0};
	const char *device = NULL, *base = NULL, *bottom = NULL;
	const struct option table[] = {
		{"base", OPTION_TEXT, &base, "FILE", "As in block-stream."},
		{"bottom", OPTION_TEXT, &bottom, "FILE", "As in block-stream."},
		CONNECTION_OPTIONS(&settings),
		JSON_OPTION(&settings),
		{0},
	};
	const struct options_usage usage = {
		.program = "sluice plan",
		.synopsis = "DEVICE [OPTION]...",
		.about =
			"Shows what block-stream would do, or the error that it would give; changes nothing.",
		.arguments_min = 1,
		.arguments_max = 1,
	};

	options_parse(argc, argv, &usage, table, &device);
	json_t *arguments = json_object();
	json_put_text(arguments, "device", device);
	json_put_text(arguments, "base", base);
	json_put_text(arguments, "bottom", bottom);
	return command_ask_and_show(&settings, "query-stream-plan", arguments, show_plan, NULL);
}

/* ---- map */

#define MAP_ROWS  16
#define MAP_WIDTH 64

/* How many bytes of a block are in each state. */
struct block {
	uint64_t leaf, zero, backing, hole;
};

static uint64_t *share_of(struct block *block, const char *state)
{
	if (strcmp(state, "leaf") == 0)
		return &block->leaf;
	if (strcmp(state, "zero") == 0)
		return &block->zero;
	if (strcmp(state, "backing") == 0)
		return &block->backing;
	return &block->hole;
}

static void add_run(struct block *blocks, size_t count, uint64_t block_bytes, const json_t *run)
{
	uint64_t at = json_number(run, "offset");
	uint64_t end = at + json_number(run, "length");

	while (at < end && at / block_bytes < count) {
		uint64_t block_end = (at / block_bytes + 1) * block_bytes;
		uint64_t part = (block_end < end ? block_end : end) - at;
		*share_of(&blocks[at / block_bytes], json_text(run, "state")) += part;
		at += part;
	}
}

/* Anything still behind shows; else what there is most of. */
static char block_letter(const struct block *block)
{
	if (block->backing)
		return block->leaf >= block->backing ? '+' : '.';
	if (block->leaf)
		return '#';
	return block->zero ? '0' : ' ';
}

static uint64_t end_of(const json_t *runs)
{
	const json_t *last = json_array_get(runs, json_array_size(runs) - 1);

	return json_number(last, "offset") + json_number(last, "length");
}

static void show_map(const json_t *runs, void *owner UNUSED)
{
	struct block blocks[MAP_ROWS * MAP_WIDTH] = {0};
	size_t count = MAP_ROWS * MAP_WIDTH;
	uint64_t size = json_array_size(runs) ? end_of(runs) : 0;
	uint64_t block_bytes = size / count + (size % count != 0);
	size_t index;
	const json_t *run;

	if (size == 0) {
		puts("an empty device");
		return;
	}
	json_array_foreach(runs, index, run) add_run(blocks, count, block_bytes, run);
	for (size_t i = 0; i * block_bytes < size && i < count; i++) {
		if (i % MAP_WIDTH == 0)
			printf("%s%10s |", i ? "|\n" : "", format_bytes(i * block_bytes).is);
		putchar(block_letter(&blocks[i]));
	}
	printf("|\n\n%12s# in the leaf   0 zeroes   . still behind   + in part   (space) nowhere\n",
		"");
	printf("%12seach is %s of %s\n", "", format_bytes(block_bytes).is, format_bytes(size).is);
}

int command_map(int argc, char **argv)
{
	struct connection_settings settings = {0};
	const char *device = NULL;
	const struct option table[] = {
		CONNECTION_OPTIONS(&settings),
		JSON_OPTION(&settings),
		{0},
	};
	const struct options_usage usage = {
		.program = "sluice map",
		.synopsis = "DEVICE [OPTION]...",
		.about = "Draws the device as blocks: in the leaf, zero, still behind.",
		.arguments_min = 1,
		.arguments_max = 1,
	};

	options_parse(argc, argv, &usage, table, &device);
	json_t *arguments = json_object();
	json_put_text(arguments, "device", device);
	return command_ask_and_show(&settings, "query-allocation", arguments, show_map, NULL);
}
