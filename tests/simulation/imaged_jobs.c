/* SPDX-License-Identifier: Apache-2.0 */
/* The model of imaged: jobs are opened, mapped, finished, closed. */
#include <stdio.h>
#include <string.h>

#include "tests/simulation/imaged.h"

static bool is_same_job(const struct open_image *open, const char *job)
{
	return open != NULL && open->job[0] && strcmp(open->job, job) == 0;
}

/* The device, if the job is open on it; else the request is refused. */
struct open_image *imaged_open_for_job(struct world *world, struct model_imaged *imaged,
	uint64_t request, const char *device, const char *job)
{
	struct open_image *open = imaged_find_open(imaged, device);

	if (open == NULL)
		imaged_refuse_as(world, imaged, request, ERROR_CLASS_DEVICE_NOT_FOUND,
			"no such device", NULL);
	else if (open->has_failed)
		imaged_refuse_as(world, imaged, request, ERROR_CLASS_GENERIC_ERROR,
			"the device failed", "EIO");
	else if (!is_same_job(open, job))
		imaged_refuse(world, imaged, request, "no such job");
	else if (!world->is_calm && dice_permille(&world->dice, world->faults.imaged_says_no))
		imaged_refuse(world, imaged, request, "not in the mood");
	else
		return open;
	return NULL;
}

void imaged_open_job(
	struct world *world, struct model_imaged *imaged, const struct msg_open_job *asked)
{
	struct open_image *open = imaged_find_open(imaged, asked->device);
	struct imaged_to_broker message = {.type = IMAGED_TO_BROKER_JOB_OPENED};

	if (open == NULL || open->has_failed) {
		imaged_refuse_as(world, imaged, asked->request, ERROR_CLASS_DEVICE_NOT_FOUND,
			"no such device", NULL);
		return;
	}
	if (open->job[0] && strcmp(open->job, asked->job) != 0) {
		imaged_refuse_as(world, imaged, asked->request, ERROR_CLASS_DEVICE_IN_USE,
			"another job", NULL);
		return;
	}
	if (asked->base != NULL && strcmp(asked->base, "missing") == 0) {
		imaged_refuse_as(world, imaged, asked->request, ERROR_CLASS_BASE_NOT_FOUND,
			"no such base", NULL);
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
	imaged_answer(world, imaged, &message);
}

static enum work work_of(const struct image *image, unsigned cluster)
{
	return image->layer[cluster] == LAYER_HIDES ? WORK_ZERO : WORK_COPY;
}

void imaged_map(struct world *world, struct model_imaged *imaged, const struct msg_map *asked)
{
	struct open_image *open =
		imaged_open_for_job(world, imaged, asked->request, asked->device, asked->job);
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
	imaged_answer(world, imaged, &message);
}

void imaged_zero(struct world *world, struct model_imaged *imaged, const struct msg_zero *asked)
{
	struct open_image *open =
		imaged_open_for_job(world, imaged, asked->request, asked->device, asked->job);
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
	imaged_answer(world, imaged, &message);
}

static unsigned first_missing(const struct image *image)
{
	unsigned cluster = 0;

	while (cluster < image->clusters && !image_needs(image, cluster))
		cluster++;
	return cluster;
}

void imaged_finish(struct world *world, struct model_imaged *imaged, const struct msg_finish *asked)
{
	struct open_image *open = imaged_find_open(imaged, asked->device);
	struct imaged_to_broker message = {.type = IMAGED_TO_BROKER_FINISHED};
	unsigned missing;

	if (open != NULL && open->image->is_switched && !open->has_failed) {
		open->job[0] = 0;
	} else {
		open = imaged_open_for_job(
			world, imaged, asked->request, asked->device, asked->job);
		if (open == NULL)
			return;
		missing = first_missing(open->image);
		if (missing < open->image->clusters) {
			message.type = IMAGED_TO_BROKER_UNFINISHED;
			message.unfinished = (struct msg_unfinished){
				asked->request, (uint64_t)missing * CLUSTER};
			imaged_answer(world, imaged, &message);
			return;
		}
		open->image->is_switched = true;
		open->job[0] = 0;
		imaged_revoke_leases(imaged, open->image, 0);
		say(world, "%s: the header is switched", open->image->file);
		if (!world->is_calm && dice_permille(&world->dice, world->faults.imaged_kill * 5)) {
			imaged_kill(world, imaged);
			return;
		}
	}
	message.finished.request = asked->request;
	message.finished.state = imaged_state_of(open->image);
	imaged_answer(world, imaged, &message);
}

void imaged_close_job(
	struct world *world, struct model_imaged *imaged, const struct msg_close_job *asked)
{
	struct open_image *open = imaged_find_open(imaged, asked->device);
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_JOB_CLOSED, .job_closed.request = asked->request};

	if (is_same_job(open, asked->job)) {
		imaged_revoke_leases(imaged, open->image, 0);
		open->job[0] = 0;
	}
	imaged_answer(world, imaged, &message);
}

static struct guest_range any_range(
	struct world *world, const struct image *image, unsigned cluster)
{
	struct dice *dice = &world->dice;

	switch (dice_below(dice, 12)) {
	case 0:
		return (struct guest_range){
			(uint64_t)image->clusters * CLUSTER - 512, dice_below(dice, 1024)};
	case 1:
		return (struct guest_range){dice_roll(dice) >> 1, dice_roll(dice) >> 1};
	case 2:
		return (struct guest_range){0, 0};
	case 3:
		return (struct guest_range){0, (uint64_t)image->clusters * CLUSTER};
	default:
		return (struct guest_range){cluster * CLUSTER + dice_below(dice, CLUSTER),
			dice_below(dice, 4 * CLUSTER)};
	}
}

void imaged_report_guest(struct world *world, struct model_imaged *imaged,
	const struct open_image *open, unsigned cluster)
{
	struct dice *dice = &world->dice;
	struct guest_range wanted[MSG_GUEST_REPORT_WANTED_MAX];
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_GUEST_REPORT,
		.guest_report =
			{
				.device = open->image->device,
				.requests = dice_below(dice, 40),
				.busy = dice_below(dice, 8) * dice_below(dice, 143),
				.interval_ms = 1 + dice_below(dice, 200),
				.wanted = wanted,
				.wanted_count = dice_percent(dice, 95)
							? dice_below(dice, 4)
							: MSG_GUEST_REPORT_WANTED_MAX,
			},
	};

	for (size_t i = 0; i < message.guest_report.wanted_count; i++)
		wanted[i] = any_range(world, open->image, cluster);
	imaged_answer(world, imaged, &message);
}

void imaged_plan(struct world *world, struct model_imaged *imaged, const struct msg_plan *asked)
{
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_PLANNED, .planned.request = asked->request};

	imaged_answer(world, imaged, &message);
}

void imaged_allocation(
	struct world *world, struct model_imaged *imaged, const struct msg_allocation *asked)
{
	struct allocation_run run = {asked->offset, CLUSTER, ALLOCATION_STATE_LEAF, false, 0};
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_ALLOCATION_PAGE,
		.allocation_page = {asked->request, &run, 1, asked->offset + CLUSTER},
	};

	imaged_answer(world, imaged, &message);
}
