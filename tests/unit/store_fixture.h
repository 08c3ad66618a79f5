/* SPDX-License-Identifier: Apache-2.0 */
/* A store in a temporary folder, and short words for changing and reading it. */
#ifndef SLUICE_TESTS_UNIT_STORE_FIXTURE_H
#define SLUICE_TESTS_UNIT_STORE_FIXTURE_H

#include <check.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/store.h"
#include "tests/unit/temporary.h"
#include "tests/unit/unflushed.h"

static char folder[64];
static bool is_child; /* a forked process that may be killed at any moment */

/* Check's assertions write into a file that parent and child share, also when they pass: a child that is killed in the middle of
 * one leaves half a message there. */
static inline void expect(bool is_so, const char *text)
{
	if (!is_child)
		ck_assert_msg(is_so, "%s", text);
	else if (!is_so)
		_exit(1);
}

static inline void make_folder(void)
{
	snprintf(folder, sizeof folder, "%s/sl-store-XXXXXX", temporary_place());
	ck_assert_ptr_nonnull(mkdtemp(folder));
}

static inline void remove_folder(void)
{
	static const char *const files[] = {
		"data.mdb", "lock.mdb", "reserve", "reserve.new", "filler"};

	for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
		char path[128];

		snprintf(path, sizeof path, "%s/%s", folder, files[i]);
		unlink(path);
	}
	ck_assert_int_eq(rmdir(folder), 0);
}

static inline struct store *open_store_sized(uint64_t map_bytes, uint64_t map_bytes_max)
{
	struct store_options options = {
		.folder = folder,
		.map_bytes = map_bytes,
		.map_bytes_max = map_bytes_max,
		.reserve_bytes = 1 << 20,
	};
	struct store *store;
	struct err err = {0};

	expect(store_open(&options, &store, &err) == 0, err.text);
	return store;
}

static inline struct store *open_store(void)
{
	return open_store_sized(0, 0);
}

static inline void add_change(struct store_batch *batch, enum effect_kind kind,
	enum store_table table, const char *key, const char *text)
{
	struct effect effect = {.kind = kind, .table = table, .key_length = strlen(key)};

	memcpy(effect.key, key, effect.key_length);
	effect.length = strlen(text);
	effect.bytes = malloc(effect.length + 1);
	memcpy(effect.bytes, text, effect.length + 1);
	store_batch_take(batch, &effect);
	expect(effect.bytes == NULL, "the batch takes the bytes over");
}

static inline void apply_and_free(struct store *store, struct store_batch *batch)
{
	struct err err = {0};
	int outcome = store_apply(store, batch, &err);

	expect(outcome == STORE_DONE, err.text);
	store_batch_free(batch);
}

static inline void apply_put(
	struct store *store, enum store_table table, const char *key, const char *text)
{
	struct store_batch *batch = store_batch_new();

	add_change(batch, EFFECT_STORE_PUT, table, key, text);
	apply_and_free(store, batch);
}

static inline unsigned count_records(struct store *store, enum store_table table)
{
	struct store_view *view;
	struct store_record record;
	struct err err;
	unsigned count = 0;

	ck_assert_int_eq(store_view_open(store, table, &view, &err), 0);
	for (int r = store_view_seek(view, "", 0, &record, &err); r == 1;
		r = store_view_next(view, &record, &err))
		count++;
	store_view_close(view);
	return count;
}

static inline bool has_record(
	struct store *store, enum store_table table, const char *key, const char *text)
{
	struct store_view *view;
	struct store_record record;
	struct err err;
	bool found;

	ck_assert_int_eq(store_view_open(store, table, &view, &err), 0);
	found = store_view_seek(view, key, strlen(key), &record, &err) == 1 &&
		record.key_length == strlen(key) && !memcmp(record.key, key, record.key_length) &&
		record.length == strlen(text) && !memcmp(record.bytes, text, record.length);
	store_view_close(view);
	return found;
}

#endif
