/* SPDX-License-Identifier: Apache-2.0 */
/* A model of imaged: maps, reserves, commits, finishes as the real one must, over images of a few clusters.  What it calls
 * free it uses again at once, so that a late write that should have been impossible is seen. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/simulation/world.h"

/* ---- answering */

static void answer(
	struct world *world, struct model_imaged *imaged, const struct imaged_to_broker *message)
{
	struct wire_buffer buffer = {0};

	imaged_to_broker_encode(message, &buffer);
	process_send(world, &imaged->process, &buffer);
	wire_buffer_done(&buffer);
}

static void refuse_as(struct world *world, struct model_imaged *imaged, uint64_t request,
	enum error_class class, const char *msg, const char *errno_name)
{
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_IMAGE_ERROR,
		.image_error = {.request = request,
			.class = class,
			.msg = msg,
			.errno_name = errno_name},
	};

	if (errno_name != NULL) {
		message.image_error.has_operation = true;
		message.image_error.operation = OPERATION_WRITE;
		message.image_error.file = "/images/x";
	}
	answer(world, imaged, &message);
}

static void refuse(
	struct world *world, struct model_imaged *imaged, uint64_t request, const char *msg)
{
	refuse_as(world, imaged, request, ERROR_CLASS_GENERIC_ERROR, msg, NULL);
}

static uint64_t draw_id(struct model_imaged *imaged)
{
	return imaged->process.incarnation << 20 | ++imaged->last_id;
}

/* ---- what is open */

static struct open_image *find_open(struct model_imaged *imaged, const char *device)
{
	for (unsigned i = 0; i < IMAGES; i++)
		if (imaged->open[i].image != NULL &&
			strcmp(imaged->open[i].image->device, device) == 0)
			return &imaged->open[i];
	return NULL;
}

static struct model_join *find_join(struct model_imaged *imaged, uint64_t id)
{
	for (unsigned i = 0; id != 0 && i < JOINS_MAX; i++)
		if (imaged->joins[i].id == id)
			return &imaged->joins[i];
	return NULL;
}

static struct model_lease *find_lease(struct model_imaged *imaged, uint64_t id)
{
	for (unsigned i = 0; id != 0 && i < LEASES_MAX; i++)
		if (imaged->leases[i].id == id)
			return &imaged->leases[i];
	return NULL;
}

static struct image *find_image(struct world *world, const char *file)
{
	for (unsigned i = 0; i < world->images_count; i++)
		if (strcmp(world->images[i].file, file) == 0)
			return &world->images[i];
	return NULL;
}

static bool is_open_elsewhere(
	struct world *world, const struct model_imaged *imaged, const struct image *image)
{
	for (unsigned i = 0; i < world->imageds_count; i++)
		for (unsigned k = 0; k < IMAGES; k++)
			if (&world->imageds[i] != imaged && world->imageds[i].process.is_alive &&
				world->imageds[i].open[k].image == image)
				return true;
	return false;
}

/* ---- leases */

static void free_hosts(struct model_lease *lease)
{
	for (unsigned i = 0; i < lease->clusters; i++)
		if (lease->host[i] != UINT32_MAX)
			lease->image->host_in_use[lease->host[i]] = false;
	lease->id = 0;
}

/* Closed, but its worker may still write: the clusters wait. */
static void quarantine(struct model_lease *lease)
{
	lease->is_quarantined = true;
}

static void revoke_leases(struct model_imaged *imaged, const struct image *image, uint64_t join)
{
	for (unsigned i = 0; i < LEASES_MAX; i++) {
		struct model_lease *lease = &imaged->leases[i];

		if (lease->id != 0 && lease->image == image && (join == 0 || lease->join == join))
			quarantine(lease);
	}
}

/* Clusters whose worker holds no lock byte any more are free. */
static void end_quarantine(struct world *world, struct model_imaged *imaged)
{
	for (unsigned i = 0; i < LEASES_MAX; i++) {
		struct model_lease *lease = &imaged->leases[i];

		if (lease->id != 0 && lease->is_quarantined &&
			!worker_holds_join(world, lease->join))
			free_hosts(lease);
	}
	for (unsigned i = 0; i < JOINS_MAX; i++)
		if (imaged->joins[i].has_ended && !worker_holds_join(world, imaged->joins[i].id))
			imaged->joins[i] = (struct model_join){0};
}

static void touch(struct world *world, struct image *image, unsigned cluster)
{
	for (unsigned i = 0; i < world->imageds_count; i++)
		for (unsigned k = 0; k < LEASES_MAX; k++) {
			struct model_lease *lease = &world->imageds[i].leases[k];

			if (lease->id != 0 && lease->image == image && cluster >= lease->first &&
				cluster < lease->first + lease->clusters)
				lease->is_touched[cluster - lease->first] = true;
		}
}

void guest_acts(struct world *world, void *about, uint64_t number)
{
	struct model_imaged *imaged =
		&world->imageds[dice_below(&world->dice, world->imageds_count)];
	struct open_image *open = &imaged->open[dice_below(&world->dice, IMAGES)];

	(void)about;
	(void)number;
	if (world->is_calm)
		return;
	at(world, dice_below(&world->dice, 60), guest_acts, NULL, 0);
	if (!imaged->process.is_alive || imaged->process.asleep_until_ms > world->now_ms ||
		open->image == NULL || open->has_failed)
		return;
	struct image *image = open->image;
	unsigned cluster = (unsigned)dice_below(&world->dice, image->clusters);

	end_quarantine(world, imaged);
	if (image->is_switched && !open->job[0] && !watch_has_job(world, image->device) &&
		dice_percent(&world->dice, 30))
		image_renew(world, image);
	touch(world, image, cluster);
	if (image->place[cluster] != PLACE_HOST)
		image->host[cluster] = image_allocate(image);
	image->place[cluster] = PLACE_HOST;
	image->host_value[image->host[cluster]] = image->must_read[cluster] = ++image->last_value;
}

/* ---- states for hello and answers */

static struct device_state state_of(const struct image *image)
{
	static struct chain_layer_info chain[1] = {{"/images/x", "qcow2", 1, "node"}};

	return (struct device_state){
		.device = image->device,
		.file = image->file,
		.format = "qcow2",
		.size = (uint64_t)image->clusters * CLUSTER,
		.cluster_size = CLUSTER,
		.nbd = "",
		.chain = chain,
		.chain_count = 1,
	};
}

void imaged_say_hello(struct world *world, struct model_imaged *imaged)
{
	struct device_state devices[IMAGES];
	struct open_job_state jobs[IMAGES];
	struct open_join joins[JOINS_MAX];
	struct open_lease leases[LEASES_MAX];
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_IMAGED_HELLO,
		.imaged_hello =
			{
				.protocol = 1,
				.name = imaged->process.name,
				.incarnation = imaged->process.incarnation,
				.host = "alpha",
				.boot_id = "boot",
				.realm = "realm",
				.pid = 1,
				.devices = devices,
				.jobs = jobs,
				.joins = joins,
				.leases = leases,
			},
	};
	struct msg_imaged_hello *hello = &message.imaged_hello;

	end_quarantine(world, imaged);
	for (unsigned i = 0; i < IMAGES; i++) {
		const struct open_image *open = &imaged->open[i];

		if (open->image == NULL)
			continue;
		devices[hello->devices_count++] = state_of(open->image);
		if (open->job[0])
			jobs[hello->jobs_count++] =
				(struct open_job_state){open->image->device, open->job};
	}
	for (unsigned i = 0; i < JOINS_MAX; i++) {
		const struct model_join *join = &imaged->joins[i];

		if (join->id != 0 && !join->has_ended)
			joins[hello->joins_count++] =
				(struct open_join){join->id, join->image->device, join->worker,
					join->worker_incarnation, join->is_confirmed};
	}
	for (unsigned i = 0; i < LEASES_MAX; i++) {
		const struct model_lease *lease = &imaged->leases[i];

		if (lease->id != 0 && !lease->is_quarantined)
			leases[hello->leases_count++] =
				(struct open_lease){lease->id, lease->image->device, lease->job,
					lease->join, (uint64_t)lease->first * CLUSTER,
					(uint64_t)lease->clusters * CLUSTER};
	}
	answer(world, imaged, &message);
}

/* ---- requests */

static void attach(struct world *world, struct model_imaged *imaged, const struct msg_attach *asked)
{
	struct image *image = find_image(world, asked->file);
	struct open_image *open = find_open(imaged, asked->device);
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_ATTACHED, .attached.request = asked->request};

	if (image == NULL || strcmp(image->device, asked->device) != 0) {
		refuse(world, imaged, asked->request, "no such file");
		return;
	}
	if (open == NULL && is_open_elsewhere(world, imaged, image)) {
		refuse_as(world, imaged, asked->request, ERROR_CLASS_DEVICE_IN_USE,
			"another process has it", NULL);
		return;
	}
	for (unsigned i = 0; open == NULL && i < IMAGES; i++)
		if (imaged->open[i].image == NULL)
			open = &imaged->open[i];
	if (open->has_failed) {
		refuse(world, imaged, asked->request, "it failed; detach it first");
		return;
	}
	open->image = image;
	message.attached.state = state_of(image);
	answer(world, imaged, &message);
}

static void detach(struct world *world, struct model_imaged *imaged, const struct msg_detach *asked)
{
	struct open_image *open = find_open(imaged, asked->device);
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_DETACHED, .detached.request = asked->request};

	if (open != NULL && open->job[0]) {
		refuse_as(world, imaged, asked->request, ERROR_CLASS_DEVICE_IN_USE, "a job is open",
			NULL);
		return;
	}
	if (open != NULL) {
		revoke_leases(imaged, open->image, 0);
		*open = (struct open_image){0};
	}
	answer(world, imaged, &message);
}

static bool is_same_job(const struct open_image *open, const char *job)
{
	return open != NULL && open->job[0] && strcmp(open->job, job) == 0;
}

/* The device, if the job is open on it; else the request is refused. */
static struct open_image *open_for_job(struct world *world, struct model_imaged *imaged,
	uint64_t request, const char *device, const char *job)
{
	struct open_image *open = find_open(imaged, device);

	if (open == NULL)
		refuse_as(world, imaged, request, ERROR_CLASS_DEVICE_NOT_FOUND, "no such device",
			NULL);
	else if (open->has_failed)
		refuse_as(world, imaged, request, ERROR_CLASS_GENERIC_ERROR, "the device failed",
			"EIO");
	else if (!is_same_job(open, job))
		refuse(world, imaged, request, "no such job");
	else if (!world->is_calm && dice_permille(&world->dice, world->faults.imaged_says_no))
		refuse(world, imaged, request, "not in the mood");
	else
		return open;
	return NULL;
}

static void open_job(
	struct world *world, struct model_imaged *imaged, const struct msg_open_job *asked)
{
	struct open_image *open = find_open(imaged, asked->device);
	struct imaged_to_broker message = {.type = IMAGED_TO_BROKER_JOB_OPENED};

	if (open == NULL || open->has_failed) {
		refuse_as(world, imaged, asked->request, ERROR_CLASS_DEVICE_NOT_FOUND,
			"no such device", NULL);
		return;
	}
	if (open->job[0] && strcmp(open->job, asked->job) != 0) {
		refuse_as(world, imaged, asked->request, ERROR_CLASS_DEVICE_IN_USE, "another job",
			NULL);
		return;
	}
	if (asked->base != NULL && strcmp(asked->base, "missing") == 0) {
		refuse_as(world, imaged, asked->request, ERROR_CLASS_BASE_NOT_FOUND, "no such base",
			NULL);
		return;
	}
	snprintf(open->job, sizeof(open->job), "%s", asked->job);
	message.job_opened = (struct msg_job_opened){
		.request = asked->request,
		.size = (uint64_t)open->image->clusters * CLUSTER,
		.cluster_size = CLUSTER,
		.nothing_to_do = open->image->is_switched,
		.backing_name = "kept",
		.backing_format = "qcow2",
	};
	answer(world, imaged, &message);
}

static enum work work_of(const struct image *image, unsigned cluster)
{
	return image->layer[cluster] == LAYER_HIDES ? WORK_ZERO : WORK_COPY;
}

static void map(struct world *world, struct model_imaged *imaged, const struct msg_map *asked)
{
	struct open_image *open =
		open_for_job(world, imaged, asked->request, asked->device, asked->job);
	struct work_run runs[4];
	struct imaged_to_broker message = {.type = IMAGED_TO_BROKER_MAP_PAGE};
	struct msg_map_page *page = &message.map_page;
	unsigned at_most = 1 + (unsigned)dice_below(&world->dice, 4), cluster;

	if (open == NULL)
		return;
	page->request = asked->request;
	page->offset = asked->offset;
	page->runs = runs;
	for (cluster = (unsigned)(asked->offset / CLUSTER); cluster < open->image->clusters;
		cluster++) {
		struct work_run *last = page->runs_count ? &runs[page->runs_count - 1] : NULL;
		enum work work = work_of(open->image, cluster);

		page->present += open->image->place[cluster] == PLACE_HOST ? CLUSTER : 0;
		if (!image_needs(open->image, cluster))
			continue;
		if (last != NULL && last->work == work &&
			last->offset + last->length == (uint64_t)cluster * CLUSTER) {
			last->length += CLUSTER;
			continue;
		}
		if (page->runs_count == at_most)
			break;
		runs[page->runs_count++] =
			(struct work_run){(uint64_t)cluster * CLUSTER, CLUSTER, work};
	}
	page->end = (uint64_t)cluster * CLUSTER;
	if (page->end == page->offset)
		wrong(world, "the core asks for a map where the device ends");
	answer(world, imaged, &message);
}

static void prepare_join(
	struct world *world, struct model_imaged *imaged, const struct msg_prepare_join *asked)
{
	struct open_image *open = find_open(imaged, asked->device);
	struct imaged_to_broker message = {.type = IMAGED_TO_BROKER_JOIN_PREPARED};
	struct model_join *join = NULL;

	for (unsigned i = 0; i < JOINS_MAX; i++)
		if (imaged->joins[i].id == 0)
			join = &imaged->joins[i];
	if (open == NULL || open->has_failed || join == NULL) {
		refuse(world, imaged, asked->request, join ? "no such device" : "too many joins");
		return;
	}
	*join = (struct model_join){.id = draw_id(imaged), .image = open->image};
	snprintf(join->worker, sizeof(join->worker), "%s", asked->worker);
	join->worker_incarnation = asked->incarnation;
	message.join_prepared = (struct msg_join_prepared){
		.request = asked->request,
		.join = join->id,
		.leaf = {.path = open->image->file},
		.lock_byte = join->id,
		.cluster_size = CLUSTER,
	};
	answer(world, imaged, &message);
}

static void confirm_join(
	struct world *world, struct model_imaged *imaged, const struct msg_confirm_join *asked)
{
	struct model_join *join = find_join(imaged, asked->join);
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_JOIN_CONFIRMED, .join_confirmed.request = asked->request};

	if (join == NULL || join->has_ended || !worker_holds_join(world, asked->join)) {
		refuse(world, imaged, asked->request, "the lock byte is free");
		return;
	}
	join->is_confirmed = true;
	answer(world, imaged, &message);
}

static void end_join(
	struct world *world, struct model_imaged *imaged, const struct msg_end_join *asked)
{
	struct model_join *join = find_join(imaged, asked->join);
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_JOIN_ENDED, .join_ended.request = asked->request};

	if (join != NULL) {
		revoke_leases(imaged, join->image, join->id);
		join->has_ended = true;
		end_quarantine(world, imaged);
		if (asked->stopped) {
			for (unsigned i = 0; i < LEASES_MAX; i++)
				if (imaged->leases[i].id != 0 &&
					imaged->leases[i].join == asked->join)
					free_hosts(&imaged->leases[i]);
			*join = (struct model_join){0};
		}
	}
	answer(world, imaged, &message);
}

static struct model_lease *new_lease(struct model_imaged *imaged)
{
	for (unsigned i = 0; i < LEASES_MAX; i++)
		if (imaged->leases[i].id == 0)
			return &imaged->leases[i];
	return NULL;
}

static void fill_lease(struct world *world, struct model_imaged *imaged, struct model_lease *lease,
	const struct open_image *open, const struct msg_reserve *asked, unsigned first)
{
	unsigned end = (unsigned)((asked->offset + asked->length) / CLUSTER);

	*lease = (struct model_lease){
		.id = draw_id(imaged), .image = open->image, .join = asked->join, .first = first};
	snprintf(lease->job, sizeof(lease->job), "%s", asked->job);
	while (first + lease->clusters < end && image_needs(open->image, first + lease->clusters)) {
		lease->host[lease->clusters++] = image_allocate(open->image);
		if (dice_percent(&world->dice, 20))
			break;
	}
}

static void reserve(
	struct world *world, struct model_imaged *imaged, const struct msg_reserve *asked)
{
	struct open_image *open =
		open_for_job(world, imaged, asked->request, asked->device, asked->job);
	struct model_join *join = find_join(imaged, asked->join);
	struct model_lease *lease = new_lease(imaged);
	struct source_extent source = {.codec = CODEC_PLAIN, .has_file = true, .has_offset = true};
	struct destination_extent destinations[CLUSTERS_MAX];
	struct imaged_to_broker message = {.type = IMAGED_TO_BROKER_RESERVED};
	unsigned first = (unsigned)(asked->offset / CLUSTER),
		 end = (unsigned)((asked->offset + asked->length) / CLUSTER);

	if (open == NULL)
		return;
	if (end > open->image->clusters || asked->length == 0 ||
		(asked->offset | asked->length) % CLUSTER != 0)
		wrong(world, "the core reserves what is no part of the device");
	if (join == NULL || !join->is_confirmed || join->has_ended || join->image != open->image ||
		lease == NULL) {
		refuse(world, imaged, asked->request, "that join is not open");
		return;
	}
	if (!world->is_calm && dice_permille(&world->dice, world->faults.no_space)) {
		refuse_as(world, imaged, asked->request, ERROR_CLASS_NO_SPACE,
			"No space left on device", "ENOSPC");
		return;
	}
	while (first < end && !image_needs(open->image, first))
		first++;
	message.reserved = (struct msg_reserved){
		.request = asked->request,
		.offset = (uint64_t)first * CLUSTER,
		.skipped = (uint64_t)first * CLUSTER - asked->offset,
		.detect_zeroes = true,
		.sources = &source,
		.destinations = destinations,
	};
	if (first < end) {
		fill_lease(world, imaged, lease, open, asked, first);
		message.reserved.lease = lease->id;
		message.reserved.length = source.length = (uint64_t)lease->clusters * CLUSTER;
		message.reserved.sources_count = 1;
		message.reserved.destinations_count = lease->clusters;
		for (unsigned i = 0; i < lease->clusters; i++)
			destinations[i] = (struct destination_extent){
				(uint64_t)lease->host[i] * CLUSTER, CLUSTER};
	}
	answer(world, imaged, &message);
}

static void zero(struct world *world, struct model_imaged *imaged, const struct msg_zero *asked)
{
	struct open_image *open =
		open_for_job(world, imaged, asked->request, asked->device, asked->job);
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_ZEROED, .zeroed.request = asked->request};

	if (open == NULL)
		return;
	if ((asked->offset + asked->length) / CLUSTER > open->image->clusters)
		wrong(world, "the core makes zeroes beyond the device");
	for (unsigned i = 0; i < asked->length / CLUSTER; i++) {
		unsigned cluster = (unsigned)(asked->offset / CLUSTER) + i;

		if (open->image->place[cluster] == PLACE_NONE &&
			open->image->layer[cluster] == LAYER_HIDES) {
			open->image->place[cluster] = PLACE_ZERO;
			message.zeroed.zeroes += CLUSTER;
		} else {
			message.zeroed.superseded += CLUSTER;
		}
	}
	answer(world, imaged, &message);
}

static bool is_zero_in(const struct msg_commit *asked, unsigned cluster)
{
	for (size_t i = 0; i < asked->zeroes_count; i++)
		if ((uint64_t)cluster * CLUSTER >= asked->zeroes[i].offset &&
			(uint64_t)cluster * CLUSTER <
				asked->zeroes[i].offset + asked->zeroes[i].length)
			return true;
	return false;
}

/* What is not mapped is free: the worker reported, it writes no more. */
static void commit(struct world *world, struct model_imaged *imaged, const struct msg_commit *asked)
{
	struct model_lease *lease = find_lease(imaged, asked->lease);
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_COMMITTED, .committed.request = asked->request};
	struct image *image;

	if (lease == NULL || lease->is_quarantined) {
		refuse(world, imaged, asked->request, "no such lease");
		return;
	}
	if (!world->is_calm && dice_permille(&world->dice, world->faults.imaged_says_no)) {
		refuse(world, imaged, asked->request, "not in the mood");
		return;
	}
	image = lease->image;
	for (unsigned i = 0; i < lease->clusters; i++) {
		unsigned cluster = lease->first + i;

		if (lease->is_touched[i] || image->place[cluster] != PLACE_NONE) {
			message.committed.superseded += CLUSTER;
		} else if (is_zero_in(asked, i)) {
			image->place[cluster] = PLACE_ZERO;
			message.committed.zeroes += CLUSTER;
		} else {
			image->place[cluster] = PLACE_HOST;
			image->host[cluster] = lease->host[i];
			lease->host[i] = UINT32_MAX;
			message.committed.copied += CLUSTER;
		}
	}
	free_hosts(lease);
	answer(world, imaged, &message);
}

static void abort_lease(
	struct world *world, struct model_imaged *imaged, const struct msg_abort *asked)
{
	struct model_lease *lease = find_lease(imaged, asked->lease);
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_ABORTED, .aborted.request = asked->request};

	if (lease != NULL && asked->stopped)
		free_hosts(lease);
	else if (lease != NULL)
		quarantine(lease);
	answer(world, imaged, &message);
}

static unsigned first_missing(const struct image *image)
{
	unsigned cluster = 0;

	while (cluster < image->clusters && !image_needs(image, cluster))
		cluster++;
	return cluster;
}

static void finish(struct world *world, struct model_imaged *imaged, const struct msg_finish *asked)
{
	struct open_image *open = find_open(imaged, asked->device);
	struct imaged_to_broker message = {.type = IMAGED_TO_BROKER_FINISHED};
	unsigned missing;

	if (open != NULL && open->image->is_switched && !open->has_failed) {
		open->job[0] = 0;
	} else {
		open = open_for_job(world, imaged, asked->request, asked->device, asked->job);
		if (open == NULL)
			return;
		missing = first_missing(open->image);
		if (missing < open->image->clusters) {
			message.type = IMAGED_TO_BROKER_UNFINISHED;
			message.unfinished = (struct msg_unfinished){
				asked->request, (uint64_t)missing * CLUSTER};
			answer(world, imaged, &message);
			return;
		}
		open->image->is_switched = true;
		open->job[0] = 0;
		revoke_leases(imaged, open->image, 0);
		say(world, "%s: the header is switched", open->image->file);
		if (!world->is_calm && dice_permille(&world->dice, world->faults.imaged_kill * 5)) {
			imaged_kill(world, imaged);
			return;
		}
	}
	message.finished.request = asked->request;
	message.finished.state = state_of(open->image);
	answer(world, imaged, &message);
}

static void close_job(
	struct world *world, struct model_imaged *imaged, const struct msg_close_job *asked)
{
	struct open_image *open = find_open(imaged, asked->device);
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_JOB_CLOSED, .job_closed.request = asked->request};

	if (is_same_job(open, asked->job)) {
		revoke_leases(imaged, open->image, 0);
		open->job[0] = 0;
	}
	answer(world, imaged, &message);
}

static void plan(struct world *world, struct model_imaged *imaged, const struct msg_plan *asked)
{
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_PLANNED, .planned.request = asked->request};

	answer(world, imaged, &message);
}

static void allocation(
	struct world *world, struct model_imaged *imaged, const struct msg_allocation *asked)
{
	struct allocation_run run = {asked->offset, CLUSTER, ALLOCATION_STATE_LEAF, false, 0};
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_ALLOCATION_PAGE,
		.allocation_page = {asked->request, &run, 1, asked->offset + CLUSTER},
	};

	answer(world, imaged, &message);
}

/* ---- receiving */

static void handle(
	struct world *world, struct model_imaged *imaged, const struct broker_to_imaged *message)
{
	switch (message->type) {
	case BROKER_TO_IMAGED_IMAGED_WELCOME:
		imaged->process.is_welcome = true;
		break;
	case BROKER_TO_IMAGED_IMAGED_REFUSED:
		say(world, "%s is refused: %s", imaged->process.name, message->imaged_refused.msg);
		imaged_kill(world, imaged);
		break;
	case BROKER_TO_IMAGED_IMAGED_UNKNOWN:
		imaged->process.is_welcome = false;
		imaged_say_hello(world, imaged);
		break;
	case BROKER_TO_IMAGED_IMAGED_BROKER_HEARTBEAT:
		break;
	case BROKER_TO_IMAGED_ATTACH:
		attach(world, imaged, &message->attach);
		break;
	case BROKER_TO_IMAGED_DETACH:
		detach(world, imaged, &message->detach);
		break;
	case BROKER_TO_IMAGED_PLAN:
		plan(world, imaged, &message->plan);
		break;
	case BROKER_TO_IMAGED_ALLOCATION:
		allocation(world, imaged, &message->allocation);
		break;
	case BROKER_TO_IMAGED_OPEN_JOB:
		open_job(world, imaged, &message->open_job);
		break;
	case BROKER_TO_IMAGED_MAP:
		map(world, imaged, &message->map);
		break;
	case BROKER_TO_IMAGED_PREPARE_JOIN:
		prepare_join(world, imaged, &message->prepare_join);
		break;
	case BROKER_TO_IMAGED_CONFIRM_JOIN:
		confirm_join(world, imaged, &message->confirm_join);
		break;
	case BROKER_TO_IMAGED_END_JOIN:
		end_join(world, imaged, &message->end_join);
		break;
	case BROKER_TO_IMAGED_RESERVE:
		reserve(world, imaged, &message->reserve);
		break;
	case BROKER_TO_IMAGED_ZERO:
		zero(world, imaged, &message->zero);
		break;
	case BROKER_TO_IMAGED_COMMIT:
		commit(world, imaged, &message->commit);
		break;
	case BROKER_TO_IMAGED_ABORT:
		abort_lease(world, imaged, &message->abort);
		break;
	case BROKER_TO_IMAGED_FINISH:
		finish(world, imaged, &message->finish);
		break;
	case BROKER_TO_IMAGED_CLOSE_JOB:
		close_job(world, imaged, &message->close_job);
		break;
	}
}

static void device_fails(struct world *world, struct model_imaged *imaged)
{
	struct open_image *open = &imaged->open[dice_below(&world->dice, IMAGES)];
	struct imaged_to_broker message = {.type = IMAGED_TO_BROKER_DEVICE_FAILED};

	if (open->image == NULL || open->has_failed)
		return;
	say(world, "%s fails", open->image->file);
	open->has_failed = true;
	revoke_leases(imaged, open->image, 0);
	message.device_failed =
		(struct msg_device_failed){open->image->device, "flush: Input/output error", "EIO"};
	answer(world, imaged, &message);
}

void imaged_receive(
	struct world *world, struct model_imaged *imaged, const void *bytes, size_t length)
{
	struct wire_memory memory = {0};
	struct broker_to_imaged message;

	if (broker_to_imaged_decode(bytes, length, &memory, &message, NULL) < 0)
		wrong(world, "imaged cannot read what the broker sends");
	if (world->is_verbose) {
		printf("%8llu        %s <- ", (unsigned long long)world->now_ms,
			imaged->process.name);
		broker_to_imaged_print(stdout, &message);
		printf("\n");
	}
	end_quarantine(world, imaged);
	handle(world, imaged, &message);
	if (imaged->process.is_alive && !world->is_calm &&
		dice_permille(&world->dice, world->faults.device_fails))
		device_fails(world, imaged);
	wire_memory_done(&memory);
}

/* ---- life and death */

static void starts(struct world *world, void *about, uint64_t number)
{
	struct model_imaged *imaged = about;
	struct process process = imaged->process;

	if (process.is_alive || process.incarnation != number)
		return;
	*imaged = (struct model_imaged){0};
	process.is_alive = true;
	process.incarnation = ++world->last_incarnation;
	process.is_welcome = process.is_leaving = false;
	process.asleep_until_ms = 0;
	process.heard_ms = world->now_ms;
	process.peer = 0;
	imaged->process = process;
	/* With --device it has some at once. */
	for (unsigned i = 0; i < world->images_count; i++)
		if (dice_percent(&world->dice, 40) &&
			i % world->imageds_count == (unsigned)(imaged - world->imageds) &&
			!is_open_elsewhere(world, imaged, &world->images[i]))
			imaged->open[i].image = &world->images[i];
	say(world, "%s starts, incarnation %llu", process.name,
		(unsigned long long)process.incarnation);
	imaged_say_hello(world, imaged);
	process_beat(world, &imaged->process);
}

void imaged_start(struct world *world, struct model_imaged *imaged, uint64_t delay_ms)
{
	at(world, delay_ms, starts, imaged, imaged->process.incarnation);
}

/* What it had in memory is gone; clusters that were reserved stay in use on disk. */
void imaged_kill(struct world *world, struct model_imaged *imaged)
{
	if (!imaged->process.is_alive)
		return;
	say(world, "%s dies", imaged->process.name);
	imaged->process.is_alive = false;
	network_cut(world, &imaged->process);
	imaged_start(world, imaged,
		dice_below(&world->dice, dice_percent(&world->dice, 10) ? 20000 : 300));
}
