/* SPDX-License-Identifier: Apache-2.0 */
/* A model of imaged: maps, reserves, commits, finishes as the real one must, over images of a
 * few clusters.  What it calls free it uses again at once, so that a late write that should have
 * been impossible is seen. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/simulation/imaged.h"

void imaged_answer(
	struct world *world, struct model_imaged *imaged, const struct imaged_to_broker *message)
{
	struct wire_buffer buffer = {0};

	imaged_to_broker_encode(message, &buffer);
	process_send(world, &imaged->process, &buffer);
	wire_buffer_done(&buffer);
}

void imaged_refuse_as(struct world *world, struct model_imaged *imaged, uint64_t request,
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
	imaged_answer(world, imaged, &message);
}

void imaged_refuse(
	struct world *world, struct model_imaged *imaged, uint64_t request, const char *msg)
{
	imaged_refuse_as(world, imaged, request, ERROR_CLASS_GENERIC_ERROR, msg, NULL);
}

struct open_image *imaged_find_open(struct model_imaged *imaged, const char *device)
{
	for (unsigned i = 0; i < IMAGES; i++)
		if (imaged->open[i].image != NULL &&
			strcmp(imaged->open[i].image->device, device) == 0)
			return &imaged->open[i];
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

	if (open->job[0] && imaged->process.is_welcome && dice_percent(&world->dice, 60))
		imaged_report_guest(world, imaged, open, cluster);
	if (dice_percent(&world->dice, 50))
		return; /* it only read */
	imaged_end_quarantine(world, imaged);
	if (image->is_switched && !open->job[0] && !watch_has_job(world, image->device) &&
		dice_percent(&world->dice, 30))
		image_renew(world, image);
	imaged_touch(world, image, cluster);
	if (image->place[cluster] != PLACE_HOST)
		image->host[cluster] = image_allocate(image);
	image->place[cluster] = PLACE_HOST;
	image->host_value[image->host[cluster]] = image->must_read[cluster] = ++image->last_value;
}

struct device_state imaged_state_of(const struct image *image)
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

	imaged_end_quarantine(world, imaged);
	for (unsigned i = 0; i < IMAGES; i++) {
		const struct open_image *open = &imaged->open[i];

		if (open->image == NULL)
			continue;
		devices[hello->devices_count++] = imaged_state_of(open->image);
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
	imaged_answer(world, imaged, &message);
}

static void attach(struct world *world, struct model_imaged *imaged, const struct msg_attach *asked)
{
	struct image *image = find_image(world, asked->file);
	struct open_image *open = imaged_find_open(imaged, asked->device);
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_ATTACHED, .attached.request = asked->request};

	if (image == NULL || strcmp(image->device, asked->device) != 0) {
		imaged_refuse(world, imaged, asked->request, "no such file");
		return;
	}
	if (open == NULL && is_open_elsewhere(world, imaged, image)) {
		imaged_refuse_as(world, imaged, asked->request, ERROR_CLASS_DEVICE_IN_USE,
			"another process has it", NULL);
		return;
	}
	for (unsigned i = 0; open == NULL && i < IMAGES; i++)
		if (imaged->open[i].image == NULL)
			open = &imaged->open[i];
	if (open->has_failed) {
		imaged_refuse(world, imaged, asked->request, "it failed; detach it first");
		return;
	}
	open->image = image;
	message.attached.state = imaged_state_of(image);
	imaged_answer(world, imaged, &message);
}

static void detach(struct world *world, struct model_imaged *imaged, const struct msg_detach *asked)
{
	struct open_image *open = imaged_find_open(imaged, asked->device);
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_DETACHED, .detached.request = asked->request};

	if (open != NULL && open->job[0]) {
		imaged_refuse_as(world, imaged, asked->request, ERROR_CLASS_DEVICE_IN_USE,
			"a job is open", NULL);
		return;
	}
	if (open != NULL) {
		imaged_revoke_leases(imaged, open->image, 0);
		*open = (struct open_image){0};
	}
	imaged_answer(world, imaged, &message);
}

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
		imaged_plan(world, imaged, &message->plan);
		break;
	case BROKER_TO_IMAGED_ALLOCATION:
		imaged_allocation(world, imaged, &message->allocation);
		break;
	case BROKER_TO_IMAGED_OPEN_JOB:
		imaged_open_job(world, imaged, &message->open_job);
		break;
	case BROKER_TO_IMAGED_MAP:
		imaged_map(world, imaged, &message->map);
		break;
	case BROKER_TO_IMAGED_PREPARE_JOIN:
		imaged_prepare_join(world, imaged, &message->prepare_join);
		break;
	case BROKER_TO_IMAGED_CONFIRM_JOIN:
		imaged_confirm_join(world, imaged, &message->confirm_join);
		break;
	case BROKER_TO_IMAGED_END_JOIN:
		imaged_end_join(world, imaged, &message->end_join);
		break;
	case BROKER_TO_IMAGED_RESERVE:
		imaged_reserve(world, imaged, &message->reserve);
		break;
	case BROKER_TO_IMAGED_ZERO:
		imaged_zero(world, imaged, &message->zero);
		break;
	case BROKER_TO_IMAGED_COMMIT:
		imaged_commit(world, imaged, &message->commit);
		break;
	case BROKER_TO_IMAGED_ABORT:
		imaged_abort(world, imaged, &message->abort);
		break;
	case BROKER_TO_IMAGED_FINISH:
		imaged_finish(world, imaged, &message->finish);
		break;
	case BROKER_TO_IMAGED_CLOSE_JOB:
		imaged_close_job(world, imaged, &message->close_job);
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
	imaged_revoke_leases(imaged, open->image, 0);
	message.device_failed =
		(struct msg_device_failed){open->image->device, "flush: Input/output error", "EIO"};
	imaged_answer(world, imaged, &message);
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
	imaged_end_quarantine(world, imaged);
	handle(world, imaged, &message);
	if (imaged->process.is_alive && !world->is_calm &&
		dice_permille(&world->dice, world->faults.device_fails))
		device_fails(world, imaged);
	wire_memory_done(&memory);
}

static void starts(struct world *world, void *about, uint64_t number)
{
	struct model_imaged *imaged = about;
	struct process process = imaged->process;

	if (process.is_alive || process.incarnation != number)
		return;
	*imaged = (struct model_imaged){0};
	process.is_alive = true;
	process.incarnation = ++world->last_incarnation;
	process.is_welcome = process.is_leaving = process.lost_order = false;
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
