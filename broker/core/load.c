/* SPDX-License-Identifier: Apache-2.0 */
/* Reads every record once, in any order of tables; only when all are read are they tied
 * together. */
#include "broker/core/load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/core/devices.h"
#include "broker/core/imageds.h"
#include "broker/core/job.h"
#include "broker/core/outbox.h"
#include "broker/core/tokens.h"
#include "common/check.h"

#define FORMAT 1

static const char settings_key[] = "settings";

void settings_store(struct core *core)
{
	struct wire_count counts[EVENT_COUNT];
	struct record_settings record = {
		.format = FORMAT,
		.epoch = core->epoch,
		.generation = core->generation,
		.speed = core->bucket.speed,
		.last_job = core->last_job,
		.last_seq = core->log.last,
		.last_by_event = counts,
		.last_by_event_count = event_log_counts(core, counts),
	};

	if (!core->has_settings_changed)
		return;
	core->has_settings_changed = false;
	wire_buffer_clear(&core->buffer);
	record_settings_encode(&record, &core->buffer);
	store_put(core, STORE_SETTINGS, settings_key, strlen(settings_key));
}

/* ---- one record */

static int load_settings(struct core *core, const void *bytes, size_t length, struct err *err)
{
	struct record_settings record;

	if (record_settings_decode(bytes, length, &core->memory, &record, err) < 0)
		return -1;
	if (record.format > FORMAT)
		return err_set(err, "the store has format %llu, this broker knows %d",
			(unsigned long long)record.format, FORMAT);
	core->has_settings = true;
	core->epoch = record.epoch;
	core->generation = record.generation;
	core->last_job = record.last_job;
	core->bucket.speed = record.speed;
	event_log_load(core, &record);
	return 0;
}

static int load_device(struct core *core, const void *bytes, size_t length, struct err *err)
{
	struct record_device record;
	struct imaged *imaged;

	if (record_device_decode(bytes, length, &core->memory, &record, err) < 0)
		return -1;
	if (device_find(core, record.device) != NULL)
		return err_set(err, "device '%s' is there twice", record.device);
	imaged = imaged_get(core, record.imaged);
	if (imaged == NULL)
		return err_set(err, "there are too many imageds");
	name_copy(imaged->realm, record.realm);
	device_new(core, imaged, &record)->is_accepted = true;
	return 0;
}

static int load_job(struct core *core, const void *bytes, size_t length, struct err *err)
{
	struct record_job record;
	struct job *job;

	if (record_job_decode(bytes, length, &core->memory, &record, err) < 0)
		return -1;
	if (job_find(core, record.job_id) != NULL)
		return err_set(err, "job '%s' is there twice", record.job_id);
	job = job_new(core, NULL, &record);
	job->is_accepted = true;
	return 0;
}

static uint64_t number_of_key(const void *key, size_t key_length)
{
	const unsigned char *bytes = key;
	uint64_t number = 0;

	for (size_t i = 0; i < key_length && i < 8; i++)
		number = number << 8 | bytes[i];
	return number;
}

/* Progress may be read before its job: kept by number until all is read. */
static int load_progress(
	struct core *core, uint64_t number, const void *bytes, size_t length, struct err *err)
{
	struct record_job_progress *progress;

	if (index_find(&core->loaded_progress, number) != NULL)
		return err_set(err, "job %llu is there twice", (unsigned long long)number);
	progress = must_calloc(1, sizeof(*progress));
	if (record_job_progress_decode(bytes, length, &core->memory, progress, err) < 0) {
		free(progress);
		return -1;
	}
	index_add(&core->loaded_progress, number, progress);
	return 0;
}

static int load(struct core *core, enum store_table table, const void *key, size_t key_length,
	const void *bytes, size_t length, struct err *err)
{
	char token[EFFECT_KEY_MAX + 1];

	switch (table) {
	case STORE_SETTINGS:
		return load_settings(core, bytes, length, err);
	case STORE_DEVICES:
		return load_device(core, bytes, length, err);
	case STORE_JOBS:
		return load_job(core, bytes, length, err);
	case STORE_PROGRESS:
		return load_progress(core, number_of_key(key, key_length), bytes, length, err);
	case STORE_MAP_PAGES: /* a hint; forgotten when the map is told anew */
	case STORE_TABLES:
		return 0;
	case STORE_EVENTS:
		event_log_found(core, number_of_key(key, key_length));
		return 0;
	case STORE_TOKENS:
		snprintf(token, sizeof(token), "%.*s",
			(int)(key_length < EFFECT_KEY_MAX ? key_length : EFFECT_KEY_MAX),
			(const char *)key);
		return token_load(core, token, bytes, length, err);
	}
	return 0;
}

int core_load(struct core *core, enum store_table table, const void *key, size_t key_length,
	const void *bytes, size_t length, struct err *err)
{
	static const char *const names[STORE_TABLES] = {
		"settings", "devices", "jobs", "progress", "map-pages", "events", "tokens"};

	wire_memory_reset(&core->memory);
	if (load(core, table, key, key_length, bytes, length, err) < 0)
		return err_wrap(err, "the store's table '%s'", names[table]);
	return 0;
}

/* ---- all are read */

static int tie_job(struct core *core, struct job *job, struct err *err)
{
	struct device *device = device_find(core, job->record.device);
	struct record_job_progress *progress =
		index_find(&core->loaded_progress, job->record.number);

	if (device == NULL || device->job != NULL)
		return err_set(err, "the store's job '%s' has no device '%s' of its own",
			job->record.job_id, job->record.device);
	job->device = device;
	device->job = job;
	if (progress != NULL)
		job->progress = *progress;
	bucket_init(&job->bucket, job->record.speed, core->now.now_ms);
	pace_init(&job->pace, core->now.now_ms);
	job->told_ms = job->stored_ms = job->pages_stored_ms = core->now.now_ms;
	if (job->record.number > core->last_job)
		core->last_job = job->record.number;
	job_touch(core, job);
	return 0;
}

static void forget_loaded_progress(struct core *core)
{
	struct record_job_progress *progress;
	size_t place = 0;

	while ((progress = index_next(&core->loaded_progress, &place)) != NULL)
		free(progress);
	index_done(&core->loaded_progress);
}

static int tie(struct core *core, struct err *err)
{
	struct device *device;
	struct job *job;
	size_t place = 0;

	while ((job = index_next(&core->jobs, &place)) != NULL)
		if (tie_job(core, job, err) < 0)
			return -1;
	for (place = 0; (device = index_next(&core->devices, &place)) != NULL;)
		device_touch(core, device);
	return 0;
}

static void begin_settings(struct core *core)
{
	uint64_t speed = core->options.has_speed ? core->options.speed : core->bucket.speed;

	if (!core->has_settings)
		core->epoch = core->options.new_epoch;
	if (core->log.first == 0)
		core->log.first = core->log.last + 1;
	core->generation++;
	bucket_init(&core->bucket, speed, core->now.now_ms);
	core->has_settings = core->has_settings_changed = true;
}

int core_start(struct core *core, struct err *err)
{
	int result;

	core->started_ms = core->now.now_ms;
	begin_settings(core);
	tokens_started(core);
	result = tie(core, err);
	forget_loaded_progress(core);
	return result;
}
