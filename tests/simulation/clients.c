/* SPDX-License-Identifier: Apache-2.0 */
/* Clients that ask for anything at any time, and see to it that each request is answered once. */
#include <stdio.h>
#include <string.h>

#include "schemas/client_broker.gen.h"
#include "schemas/envelope.gen.h"
#include "tests/simulation/parts.h"

#define REQUESTS 64

static struct model_request *find_request(struct world *world, uint64_t client)
{
	for (unsigned i = 0; i < REQUESTS; i++)
		if (world->requests[i].client == client)
			return &world->requests[i];
	return NULL;
}

/* Whoever asked a broker that died asks anew or not at all. */
void clients_forget(struct world *world)
{
	memset(world->requests, 0, sizeof(world->requests));
}

static struct model_request *ask(
	struct world *world, const char *command, const struct wire_buffer *arguments)
{
	struct model_request *request = find_request(world, 0);
	struct request_envelope envelope = {.execute = command};
	struct wire_buffer buffer = {0};
	uint64_t client = ++world->last_client;

	if (request == NULL)
		return NULL;
	*request = (struct model_request){.client = client};
	snprintf(request->text, sizeof(request->text), "%s", command);
	envelope.arguments = wire_buffer_bytes(arguments);
	request_envelope_encode(&envelope, &buffer);
	if (world->is_verbose) {
		printf("%8llu        client %llu asks ", (unsigned long long)world->now_ms,
			(unsigned long long)client);
		wire_print_bytes(stdout, buffer.bytes, buffer.length);
		printf("\n");
	}
	broker_client_request(world, client, buffer.bytes, buffer.length);
	wire_buffer_done(&buffer);
	return find_request(world, client);
}

void client_receive(struct world *world, uint64_t client, const void *bytes, size_t length)
{
	struct model_request *request = find_request(world, client);

	if (request == NULL)
		wrong(world, "a reply for client %llu, who is not waiting",
			(unsigned long long)client);
	if (world->is_verbose) {
		printf("%8llu        client %llu hears ", (unsigned long long)world->now_ms,
			(unsigned long long)client);
		wire_print_bytes(stdout, bytes, length);
		printf("\n");
	}
	if (request->is_stream) {
		struct wire_memory memory = {0};
		struct reply_envelope reply;

		if (reply_envelope_decode(bytes, length, &memory, &reply, NULL) < 0)
			wrong(world, "a reply cannot be read");
		if (!reply.has_error)
			watch_stream_accepted(world, request->job);
		wire_memory_done(&memory);
	}
	*request = (struct model_request){0};
}

static const struct image *any_image(struct world *world)
{
	return &world->images[dice_below(&world->dice, world->images_count)];
}

static void ask_stream(struct world *world)
{
	struct dice *dice = &world->dice;
	const struct image *image = any_image(world);
	struct cmd_block_stream arguments = {.device = image->device};
	struct wire_buffer buffer = {0};
	struct model_request *request;
	char token[NAME_ROOM] = "", job[NAME_ROOM] = "";

	if (dice_percent(dice, 20)) {
		snprintf(job, sizeof(job), "job%u", (unsigned)dice_below(dice, 3));
		arguments.job_id = job;
	}
	if (dice_percent(dice, 20)) {
		snprintf(token, sizeof(token), "token%u", (unsigned)dice_below(dice, 6));
		arguments.token = token;
	}
	if (dice_percent(dice, 5))
		arguments.base = "missing";
	arguments.has_speed = dice_percent(dice, 15);
	arguments.speed = arguments.has_speed ? dice_below(dice, 3000000) : 0;
	arguments.has_floor = dice_percent(dice, 20);
	arguments.floor = arguments.has_floor ? dice_below(dice, 3) * dice_below(dice, 3000000) : 0;
	cmd_block_stream_encode(&arguments, &buffer);
	request = find_request(world, 0);
	if (request != NULL) {
		/* The reply may come within the call: what is asked must be known before. */
		uint64_t client = world->last_client + 1;
		struct request_envelope envelope = {
			.execute = "block_stream", .arguments = wire_buffer_bytes(&buffer)};
		struct wire_buffer packed = {0};

		world->last_client = client;
		*request = (struct model_request){
			.client = client, .is_stream = arguments.token == NULL};
		snprintf(request->text, sizeof(request->text), "block_stream");
		memcpy(request->job, arguments.job_id ? job : image->device, sizeof(request->job));
		request_envelope_encode(&envelope, &packed);
		say(world, "client %llu: %s", (unsigned long long)client, request->text);
		broker_client_request(world, client, packed.bytes, packed.length);
		wire_buffer_done(&packed);
	}
	wire_buffer_done(&buffer);
}

static void ask_cancel(struct world *world, unsigned by_force)
{
	struct cmd_block_job_cancel arguments = {
		.device = any_image(world)->device,
		.has_force = true,
		.force = dice_percent(&world->dice, by_force),
	};
	struct wire_buffer buffer = {0};

	cmd_block_job_cancel_encode(&arguments, &buffer);
	ask(world, "block_job_cancel", &buffer);
	wire_buffer_done(&buffer);
}

static void ask_speed(struct world *world, const char *device, uint64_t speed)
{
	struct cmd_block_job_set_speed arguments = {.device = device, .speed = speed};
	struct wire_buffer buffer = {0};

	cmd_block_job_set_speed_encode(&arguments, &buffer);
	ask(world, "block-job-set_speed", &buffer);
	wire_buffer_done(&buffer);
}

static void ask_attach(struct world *world, const struct image *image)
{
	struct cmd_device_attach arguments = {
		.device = dice_percent(&world->dice, 95) ? image->device : any_image(world)->device,
		.file = image->file,
		.imaged =
			world->imageds[dice_below(&world->dice, world->imageds_count)].process.name,
	};
	struct wire_buffer buffer = {0};

	cmd_device_attach_encode(&arguments, &buffer);
	ask(world, "device-attach", &buffer);
	wire_buffer_done(&buffer);
}

static void ask_detach(struct world *world)
{
	struct cmd_device_detach arguments = {
		.device = any_image(world)->device,
		.has_force = true,
		.force = dice_percent(&world->dice, 30),
	};
	struct wire_buffer buffer = {0};

	cmd_device_detach_encode(&arguments, &buffer);
	ask(world, "device-detach", &buffer);
	wire_buffer_done(&buffer);
}

static void ask_about(struct world *world)
{
	static const char *const commands[] = {"query-block-jobs", "query-devices", "query-workers",
		"query-status", "query-version", "query-commands", "query_status", "nonsense"};
	static unsigned char empty_map[] = {0x80};
	struct wire_buffer none = {.bytes = empty_map, .length = 1};

	ask(world, commands[dice_below(&world->dice, 8)], &none);
}

static void ask_image(struct world *world)
{
	struct cmd_query_allocation arguments = {.device = any_image(world)->device};
	struct wire_buffer buffer = {0};

	cmd_query_allocation_encode(&arguments, &buffer);
	ask(world, dice_percent(&world->dice, 50) ? "query-allocation" : "query-stream-plan",
		&buffer);
	wire_buffer_done(&buffer);
}

void client_begins(struct world *world, void *about, uint64_t number)
{
	(void)about;
	for (unsigned i = 0; i < world->images_count && broker_is_alive(world); i++)
		ask_attach(world, &world->images[i]);
	if (number > 0)
		at(world, 300, client_begins, NULL, number - 1);
}

void client_acts(struct world *world, void *about, uint64_t number)
{
	uint64_t roll = dice_below(&world->dice, 100);

	(void)about;
	(void)number;
	if (world->is_calm)
		return;
	at(world, dice_below(&world->dice, 400), client_acts, NULL, 0);
	if (!broker_is_alive(world))
		return;
	if (roll < 35)
		ask_stream(world);
	else if (roll < 50)
		ask_attach(world, any_image(world));
	else if (roll < 67)
		ask_cancel(world, 40);
	else if (roll < 72)
		ask_detach(world);
	else if (roll < 80)
		ask_speed(world, any_image(world)->device,
			dice_percent(&world->dice, 50) ? 0 : dice_below(&world->dice, 10000000));
	else if (roll < 90)
		ask_about(world);
	else
		ask_image(world);
}

/* When no more faults come: limits that would take for ever are lifted. */
void client_settles(struct world *world, void *about, uint64_t number)
{
	(void)about;
	(void)number;
	at(world, 3000, client_settles, NULL, 0);
	if (!broker_is_alive(world))
		return;
	for (unsigned i = 0; i < world->images_count; i++)
		ask_speed(world, world->images[i].device, 0);
	for (unsigned i = 0; i < 3; i++) {
		char job[NAME_ROOM];

		snprintf(job, sizeof(job), "job%u", i);
		ask_speed(world, job, 0);
	}
}
