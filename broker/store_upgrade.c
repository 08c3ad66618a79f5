/* SPDX-License-Identifier: Apache-2.0 */
/* The store's layout through the releases.  One step a format, each from the one before; a step is never edited after its
 * release.  There is one format so far, so there is no step yet: what is here is the refusal of what a newer release wrote. */
#include "broker/store.h"

#include "schemas/records.gen.h"

#define SETTINGS_KEY "settings"

/* The format that the settings record names; 0 for a new store. */
static int read_format(struct store *store, uint64_t *ret_format, struct err *err)
{
	CLEANUP(store_view_cleanup) struct store_view *view = NULL;
	struct record_settings settings;
	struct store_record record;
	struct wire_memory memory;
	int r;

	if (store_view_open(store, STORE_SETTINGS, &view, err))
		return -1;
	r = store_view_seek(view, SETTINGS_KEY, sizeof(SETTINGS_KEY) - 1, &record, err);
	if (r <= 0) {
		*ret_format = 0;
		return r;
	}
	wire_memory_init(&memory);
	r = record_settings_decode(record.bytes, record.length, &memory, &settings, err);
	if (r == 0)
		*ret_format = settings.format;
	else
		err_wrap(err, "the store's settings");
	wire_memory_done(&memory);
	return r;
}

int store_upgrade(struct store *store, struct err *err)
{
	uint64_t format = 0;

	if (read_format(store, &format, err))
		return -1;
	if (format > STORE_FORMAT)
		return err_set(err,
			"the store has format %llu, this program knows formats up to %d: it was written by a "
			"newer release, use that one",
			(unsigned long long)format, STORE_FORMAT);
	return 0;
}
