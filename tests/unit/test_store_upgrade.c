/* SPDX-License-Identifier: Apache-2.0 */
/* A store of another release. */
#include <string.h>

#include "broker/store.h"
#include "schemas/records.gen.h"
#include "tests/unit/store_fixture.h"
#include "tests/unit/unit.h"

static void put_settings(struct store *store, uint64_t format)
{
	struct wire_buffer record = {0};
	struct store_batch *batch = store_batch_new();
	struct effect effect = {.kind = EFFECT_STORE_PUT, .table = STORE_SETTINGS, .key_length = 8};

	memcpy(effect.key, "settings", 8);
	record_settings_encode(
		&(struct record_settings){.format = format, .epoch = 7, .generation = 1}, &record);
	effect.bytes = record.bytes;
	effect.length = record.length;
	store_batch_take(batch, &effect);
	apply_and_free(store, batch);
}

START_TEST(a_new_store_and_one_of_this_format_are_taken)
{
	struct err err;
	make_folder();
	struct store *store = open_store();

	ck_assert_int_eq(store_upgrade(store, &err), 0);
	put_settings(store, STORE_FORMAT);
	ck_assert_int_eq(store_upgrade(store, &err), 0);

	store_close(store);
	remove_folder();
}
END_TEST

START_TEST(a_newer_format_is_refused_and_left_alone)
{
	struct err err;
	make_folder();
	struct store *store = open_store();
	put_settings(store, STORE_FORMAT + 1);

	ck_assert_int_eq(store_upgrade(store, &err), -1);

	ck_assert_ptr_nonnull(strstr(err.text, "format 2"));
	ck_assert_ptr_nonnull(strstr(err.text, "newer release"));
	ck_assert_uint_eq(count_records(store, STORE_SETTINGS), 1);
	store_close(store);
	remove_folder();
}
END_TEST

START_TEST(settings_that_cannot_be_read_are_refused_with_words)
{
	struct err err;
	make_folder();
	struct store *store = open_store();
	apply_put(store, STORE_SETTINGS, "settings", "rubbish");

	ck_assert_int_eq(store_upgrade(store, &err), -1);

	ck_assert_ptr_nonnull(strstr(err.text, "settings"));
	store_close(store);
	remove_folder();
}
END_TEST

UNIT_MAIN("store_upgrade", a_new_store_and_one_of_this_format_are_taken,
	a_newer_format_is_refused_and_left_alone,
	settings_that_cannot_be_read_are_refused_with_words)
