/* SPDX-License-Identifier: Apache-2.0 */
/* The model of imaged: joins, leases, quarantine.  What it calls free it uses again at once, so
 * that a late write that should have been impossible is seen. */
#include <stdio.h>

#include "tests/simulation/imaged.h"

static uint64_t draw_id(struct model_imaged *imaged)
{
	return imaged->process.incarnation << 20 | ++imaged->last_id;
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

void imaged_revoke_leases(struct model_imaged *imaged, const struct image *image, uint64_t join)
{
	for (unsigned i = 0; i < LEASES_MAX; i++) {
		struct model_lease *lease = &imaged->leases[i];

		if (lease->id != 0 && lease->image == image && (join == 0 || lease->join == join))
			quarantine(lease);
	}
}

/* Clusters whose worker holds no lock byte any more are free. */
void imaged_end_quarantine(struct world *world, struct model_imaged *imaged)
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

void imaged_touch(struct world *world, struct image *image, unsigned cluster)
{
	for (unsigned i = 0; i < world->imageds_count; i++)
		for (unsigned k = 0; k < LEASES_MAX; k++) {
			struct model_lease *lease = &world->imageds[i].leases[k];

			if (lease->id != 0 && lease->image == image && cluster >= lease->first &&
				cluster < lease->first + lease->clusters)
				lease->is_touched[cluster - lease->first] = true;
		}
}

void imaged_prepare_join(
	struct world *world, struct model_imaged *imaged, const struct msg_prepare_join *asked)
{
	struct open_image *open = imaged_find_open(imaged, asked->device);
	struct imaged_to_broker message = {.type = IMAGED_TO_BROKER_JOIN_PREPARED};
	struct model_join *join = NULL;

	for (unsigned i = 0; i < JOINS_MAX; i++)
		if (imaged->joins[i].id == 0)
			join = &imaged->joins[i];
	if (open == NULL || open->has_failed || join == NULL) {
		imaged_refuse(
			world, imaged, asked->request, join ? "no such device" : "too many joins");
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
	imaged_answer(world, imaged, &message);
}

void imaged_confirm_join(
	struct world *world, struct model_imaged *imaged, const struct msg_confirm_join *asked)
{
	struct model_join *join = find_join(imaged, asked->join);
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_JOIN_CONFIRMED, .join_confirmed.request = asked->request};

	if (join == NULL || join->has_ended || !worker_holds_join(world, asked->join)) {
		imaged_refuse(world, imaged, asked->request, "the lock byte is free");
		return;
	}
	join->is_confirmed = true;
	imaged_answer(world, imaged, &message);
}

void imaged_end_join(
	struct world *world, struct model_imaged *imaged, const struct msg_end_join *asked)
{
	struct model_join *join = find_join(imaged, asked->join);
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_JOIN_ENDED, .join_ended.request = asked->request};

	if (join != NULL) {
		imaged_revoke_leases(imaged, join->image, join->id);
		join->has_ended = true;
		imaged_end_quarantine(world, imaged);
		if (asked->stopped) {
			for (unsigned i = 0; i < LEASES_MAX; i++)
				if (imaged->leases[i].id != 0 &&
					imaged->leases[i].join == asked->join)
					free_hosts(&imaged->leases[i]);
			*join = (struct model_join){0};
		}
	}
	imaged_answer(world, imaged, &message);
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

/* What the network brought twice is no new request.  Nothing can be said once the order is lost:
 * an abort may have been, too. */
static void check_handed_out_once(struct world *world, struct model_imaged *imaged,
	const struct image *image, const struct msg_reserve *asked)
{
	uint64_t end = asked->offset + asked->length;

	for (unsigned i = 0; i < LEASES_MAX; i++) {
		const struct model_lease *lease = &imaged->leases[i];

		if (lease->id != 0 && !lease->is_quarantined && !lease->is_repeat &&
			lease->image == image && (uint64_t)lease->first * CLUSTER < end &&
			asked->offset < (uint64_t)(lease->first + lease->clusters) * CLUSTER)
			wrong(world, "%llu to %llu of %s is handed out twice",
				(unsigned long long)asked->offset, (unsigned long long)end,
				image->file);
	}
}

void imaged_reserve(
	struct world *world, struct model_imaged *imaged, const struct msg_reserve *asked)
{
	struct open_image *open =
		imaged_open_for_job(world, imaged, asked->request, asked->device, asked->job);
	struct model_join *join = find_join(imaged, asked->join);
	struct model_lease *lease = new_lease(imaged);
	struct source_extent source = {.codec = CODEC_PLAIN, .has_file = true, .has_offset = true};
	struct destination_extent destinations[CLUSTERS_MAX];
	struct imaged_to_broker message = {.type = IMAGED_TO_BROKER_RESERVED};
	unsigned first = (unsigned)(asked->offset / CLUSTER),
		 end = (unsigned)((asked->offset + asked->length) / CLUSTER);
	bool is_repeat = asked->request <= imaged->newest_reserve;

	if (open == NULL)
		return;
	if (end > open->image->clusters || asked->length == 0 ||
		(asked->offset | asked->length) % CLUSTER != 0)
		wrong(world, "the core reserves what is no part of the device");
	if (join == NULL || !join->is_confirmed || join->has_ended || join->image != open->image ||
		lease == NULL) {
		imaged_refuse(world, imaged, asked->request, "that join is not open");
		return;
	}
	if (!world->is_calm && dice_permille(&world->dice, world->faults.no_space)) {
		imaged_refuse_as(world, imaged, asked->request, ERROR_CLASS_NO_SPACE,
			"No space left on device", "ENOSPC");
		return;
	}
	if (!is_repeat && !imaged->process.lost_order)
		check_handed_out_once(world, imaged, open->image, asked);
	imaged->newest_reserve = is_repeat ? imaged->newest_reserve : asked->request;
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
		lease->is_repeat = is_repeat;
		message.reserved.lease = lease->id;
		message.reserved.length = source.length = (uint64_t)lease->clusters * CLUSTER;
		message.reserved.sources_count = 1;
		message.reserved.destinations_count = lease->clusters;
		for (unsigned i = 0; i < lease->clusters; i++)
			destinations[i] = (struct destination_extent){
				(uint64_t)lease->host[i] * CLUSTER, CLUSTER};
	}
	imaged_answer(world, imaged, &message);
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
void imaged_commit(struct world *world, struct model_imaged *imaged, const struct msg_commit *asked)
{
	struct model_lease *lease = find_lease(imaged, asked->lease);
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_COMMITTED, .committed.request = asked->request};
	struct image *image;

	if (lease == NULL || lease->is_quarantined) {
		imaged_refuse(world, imaged, asked->request, "no such lease");
		return;
	}
	if (!world->is_calm && dice_permille(&world->dice, world->faults.imaged_says_no)) {
		imaged_refuse(world, imaged, asked->request, "not in the mood");
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
	imaged_answer(world, imaged, &message);
}

void imaged_abort(struct world *world, struct model_imaged *imaged, const struct msg_abort *asked)
{
	struct model_lease *lease = find_lease(imaged, asked->lease);
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_ABORTED, .aborted.request = asked->request};

	if (lease != NULL && asked->stopped)
		free_hosts(lease);
	else if (lease != NULL)
		quarantine(lease);
	imaged_answer(world, imaged, &message);
}
