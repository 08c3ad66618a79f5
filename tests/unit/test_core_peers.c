/* SPDX-License-Identifier: Apache-2.0 */
/* Who is who: names that two processes claim, devices that move, what jobs lack while somebody is away. */
#include <stdio.h>
#include <string.h>

#include "broker/core/core.h"
#include "schemas/client_broker.gen.h"
#include "schemas/envelope.gen.h"
#include "schemas/events.gen.h"
#include "tests/unit/unit.h"

static struct core *core;
static struct effects effects;
static uint64_t now_ms;
static struct wire_memory memory;

static struct core_time now(void)
{
	return (struct core_time){now_ms, now_ms * 1000};
}

static void begin(void)
{
	struct core_options options = {
		.peer_timeout_ms = 5000,
		.lease_ms = 15000,
		.heartbeat_ms = 1000,
		.event_log = 1000,
		.new_epoch = 5,
	};

	now_ms = 100000;
	core = core_new(&options);
	ck_assert_int_eq(core_started(core, now(), &effects, NULL), 0);
	effects_clear(&effects);
}

static void end(void)
{
	core_free(core);
	effects_done(&effects);
	wire_memory_done(&memory);
}

static void tick_to(uint64_t ms)
{
	while (now_ms < ms) {
		now_ms += 100;
		core_tick(core, now(), &effects);
	}
}

static void imaged_hello(uint64_t peer, const char *name, uint64_t incarnation, const char *device)
{
	struct device_state state = {.device = device,
		.file = "/leaf",
		.format = "qcow2",
		.size = 1 << 20,
		.cluster_size = 65536,
		.nbd = ""};
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_IMAGED_HELLO,
		.imaged_hello =
			{
				.protocol = 1,
				.name = name,
				.incarnation = incarnation,
				.host = "h",
				.boot_id = "b",
				.realm = "r",
				.devices = &state,
				.devices_count = device != NULL,
			},
	};

	effects_clear(&effects);
	core_imaged_message(core, now(), peer, &message, &effects);
}

static void imaged_says(uint64_t peer, const struct imaged_to_broker *message)
{
	effects_clear(&effects);
	core_imaged_message(core, now(), peer, message, &effects);
}

static void imaged_beats(uint64_t peer)
{
	struct imaged_to_broker message = {.type = IMAGED_TO_BROKER_IMAGED_HEARTBEAT};

	imaged_says(peer, &message);
}

/* How many messages of that type were sent to the peer since the last clear; the last one in *ret. */
static int sent(
	uint64_t peer, enum broker_to_imaged_type type, struct broker_to_imaged *ret_message)
{
	struct broker_to_imaged message;
	int count = 0;

	for (size_t i = 0; i < effects.count; i++) {
		const struct effect *effect = &effects.items[i];

		if (effect->kind != EFFECT_SEND_IMAGED || effect->peer != peer)
			continue;
		ck_assert_int_eq(broker_to_imaged_decode(
					 effect->bytes, effect->length, &memory, &message, NULL),
			0);
		if (message.type != type)
			continue;
		count++;
		if (ret_message != NULL)
			*ret_message = message;
	}
	return count;
}

static int published(const char *topic)
{
	int count = 0;

	for (size_t i = 0; i < effects.count; i++)
		count += effects.items[i].kind == EFFECT_PUBLISH &&
			 strcmp(effects.items[i].topic, topic) == 0;
	return count;
}

static void ask(const char *command, const struct wire_buffer *arguments)
{
	struct request_envelope envelope = {
		.execute = command, .arguments = wire_buffer_bytes(arguments)};
	struct wire_buffer packed = {0};
	static uint64_t client;

	request_envelope_encode(&envelope, &packed);
	effects_clear(&effects);
	core_client_request(core, now(), ++client, packed.bytes, packed.length, &effects);
	wire_buffer_done(&packed);
}

static void stream(void)
{
	struct cmd_block_stream arguments = {.device = "disk0"};
	struct wire_buffer packed = {0};

	cmd_block_stream_encode(&arguments, &packed);
	ask("block_stream", &packed);
	wire_buffer_done(&packed);
}

static void detach(bool by_force)
{
	struct cmd_device_detach arguments = {
		.device = "disk0", .has_force = true, .force = by_force};
	struct wire_buffer packed = {0};

	cmd_device_detach_encode(&arguments, &packed);
	ask("device-detach", &packed);
	wire_buffer_done(&packed);
}

START_TEST(a_second_live_imaged_of_a_name_is_refused)
{
	begin();
	imaged_hello(1, "alpha", 10, NULL);

	imaged_hello(2, "alpha", 20, NULL);
	ck_assert_int_eq(sent(2, BROKER_TO_IMAGED_IMAGED_REFUSED, NULL),
		0); /* not before the first was asked */
	ck_assert_int_eq(sent(1, BROKER_TO_IMAGED_IMAGED_BROKER_HEARTBEAT, NULL), 1);
	now_ms += 300;
	imaged_beats(1);

	ck_assert_int_eq(sent(2, BROKER_TO_IMAGED_IMAGED_REFUSED, NULL), 1);
	end();
}
END_TEST

START_TEST(the_name_of_a_silent_imaged_is_taken_over_soon)
{
	begin();
	imaged_hello(1, "alpha", 10, NULL);

	imaged_hello(2, "alpha", 20, NULL);
	tick_to(now_ms + 1600);
	ck_assert_int_eq(sent(2, BROKER_TO_IMAGED_IMAGED_UNKNOWN, NULL), 1); /* say it again */
	imaged_hello(2, "alpha", 20, NULL);

	ck_assert_int_eq(sent(2, BROKER_TO_IMAGED_IMAGED_WELCOME, NULL), 1);
	end();
}
END_TEST

START_TEST(the_name_of_a_dead_imaged_is_taken_over_at_once)
{
	begin();
	imaged_hello(1, "alpha", 10, NULL);

	imaged_hello(2, "alpha", 20, NULL);
	core_peer_unreachable(core, now(), 1, &effects);
	ck_assert_int_eq(sent(2, BROKER_TO_IMAGED_IMAGED_UNKNOWN, NULL), 1);
	imaged_hello(2, "alpha", 20, NULL);

	ck_assert_int_eq(sent(2, BROKER_TO_IMAGED_IMAGED_WELCOME, NULL), 1);
	end();
}
END_TEST

START_TEST(a_device_is_taken_over_only_from_an_imaged_that_is_away)
{
	begin();
	imaged_hello(1, "alpha", 10, "disk0");
	ck_assert_int_eq(published("DEVICE_ONLINE/disk0/"), 1);

	imaged_hello(2, "beta", 20, "disk0");
	ck_assert_int_eq(sent(2, BROKER_TO_IMAGED_DETACH, NULL), 1);

	core_peer_unreachable(core, now(), 1, &effects);
	ck_assert_int_eq(published("DEVICE_OFFLINE/disk0/"), 1);
	imaged_hello(2, "beta", 20, "disk0");
	ck_assert_int_eq(published("DEVICE_ONLINE/disk0/"), 1);
	ck_assert_int_eq(sent(2, BROKER_TO_IMAGED_DETACH, NULL), 0);
	end();
}
END_TEST

START_TEST(an_imaged_that_comes_back_gets_its_devices_attached_again)
{
	struct broker_to_imaged message;

	begin();
	imaged_hello(1, "alpha", 10, "disk0");
	tick_to(now_ms + 6000);
	imaged_hello(2, "alpha", 11, NULL);

	ck_assert_int_eq(sent(2, BROKER_TO_IMAGED_ATTACH, &message), 1);
	ck_assert_str_eq(message.attach.device, "disk0");
	ck_assert_str_eq(message.attach.file, "/leaf");
	end();
}
END_TEST

START_TEST(a_device_detached_by_force_stays_detached_when_its_imaged_is_back)
{
	begin();
	imaged_hello(1, "alpha", 10, "disk0");
	core_peer_unreachable(core, now(), 1, &effects);
	detach(true);
	ck_assert_int_eq(published("DEVICE_OFFLINE/disk0/"), 0); /* said already */

	imaged_hello(2, "alpha", 10, "disk0");
	ck_assert_int_eq(sent(2, BROKER_TO_IMAGED_DETACH, NULL), 1);
	ck_assert_int_eq(published("DEVICE_ONLINE/disk0/"), 0);

	imaged_hello(2, "alpha", 11,
		"disk0"); /* started anew with --device: that is a wish of its own */
	ck_assert_int_eq(published("DEVICE_ONLINE/disk0/"), 1);
	end();
}
END_TEST

static uint64_t open_job(void)
{
	struct broker_to_imaged message;
	struct imaged_to_broker answer = {.type = IMAGED_TO_BROKER_JOB_OPENED};

	stream();
	ck_assert_int_eq(sent(1, BROKER_TO_IMAGED_OPEN_JOB, &message), 1);
	answer.job_opened = (struct msg_job_opened){.request = message.open_job.request,
		.size = 1 << 20,
		.cluster_size = 65536,
		.backing_name = "",
		.backing_format = ""};
	imaged_says(1, &answer);
	ck_assert_int_eq(sent(1, BROKER_TO_IMAGED_MAP, &message), 1);
	return message.map.request;
}

START_TEST(a_job_without_a_worker_says_so_after_a_second)
{
	struct work_run run = {0, 65536, WORK_COPY};
	struct imaged_to_broker answer = {.type = IMAGED_TO_BROKER_MAP_PAGE};

	begin();
	imaged_hello(1, "alpha", 10, "disk0");
	tick_to(now_ms + 3000); /* a broker that just started waits longer */
	answer.map_page = (struct msg_map_page){
		.request = open_job(), .end = 1 << 20, .runs = &run, .runs_count = 1};
	imaged_says(1, &answer);
	ck_assert_int_eq(published("BLOCK_JOB_STALLED/disk0/"), 0);

	tick_to(now_ms + 900);
	ck_assert_int_eq(published("BLOCK_JOB_STALLED/disk0/"), 0);
	tick_to(now_ms + 200);
	ck_assert_int_eq(published("BLOCK_JOB_STALLED/disk0/"), 1);
	end();
}
END_TEST

START_TEST(a_job_whose_imaged_is_away_says_so_and_goes_on)
{
	begin();
	imaged_hello(1, "alpha", 10, "disk0");
	open_job();
	effects_clear(&effects);

	tick_to(now_ms + 7500);
	ck_assert_int_eq(published("DEVICE_OFFLINE/disk0/"), 1);
	ck_assert_int_eq(published("BLOCK_JOB_STALLED/disk0/"), 1);

	imaged_hello(2, "alpha", 11, "disk0");
	ck_assert_int_eq(published("BLOCK_JOB_STALLED/disk0/"), 1);
	ck_assert_int_eq(sent(2, BROKER_TO_IMAGED_OPEN_JOB, NULL), 1);
	end();
}
END_TEST

START_TEST(a_failed_device_fails_its_job_and_is_attached_anew)
{
	struct imaged_to_broker failure = {.type = IMAGED_TO_BROKER_DEVICE_FAILED,
		.device_failed = {"disk0", "flush: I/O error", "EIO"}};
	struct imaged_to_broker answer = {.type = IMAGED_TO_BROKER_JOB_CLOSED};
	struct broker_to_imaged message;

	begin();
	imaged_hello(1, "alpha", 10, "disk0");
	open_job();
	imaged_says(1, &failure);
	ck_assert_int_eq(published("DEVICE_OFFLINE/disk0/"), 1);
	ck_assert_int_eq(sent(1, BROKER_TO_IMAGED_CLOSE_JOB, &message), 1);
	ck_assert_int_eq(sent(1, BROKER_TO_IMAGED_DETACH, NULL), 0);

	answer.job_closed.request = message.close_job.request;
	imaged_says(1, &answer);
	ck_assert_int_eq(published("BLOCK_JOB_COMPLETED/disk0/"), 1);
	ck_assert_int_eq(sent(1, BROKER_TO_IMAGED_DETACH, &message), 1);

	answer = (struct imaged_to_broker){
		.type = IMAGED_TO_BROKER_DETACHED, .detached.request = message.detach.request};
	imaged_says(1, &answer);
	ck_assert_int_eq(sent(1, BROKER_TO_IMAGED_ATTACH, NULL), 1);
	end();
}
END_TEST

static void attach_at(const char *imaged)
{
	struct cmd_device_attach arguments = {.device = "disk0", .file = "/leaf", .imaged = imaged};
	struct wire_buffer packed = {0};

	cmd_device_attach_encode(&arguments, &packed);
	ask("device-attach", &packed);
	wire_buffer_done(&packed);
}

START_TEST(a_device_moves_only_once_the_other_imaged_has_it_open)
{
	struct broker_to_imaged asked;
	struct imaged_to_broker answer = {.type = IMAGED_TO_BROKER_IMAGE_ERROR};

	begin();
	imaged_hello(1, "alpha", 10, "disk0");
	imaged_hello(2, "beta", 20, NULL);
	core_peer_unreachable(core, now(), 1, &effects);

	attach_at("beta");
	ck_assert_int_eq(sent(2, BROKER_TO_IMAGED_ATTACH, &asked), 1);
	answer.image_error = (struct msg_image_error){.request = asked.attach.request,
		.class = ERROR_CLASS_DEVICE_IN_USE,
		.msg = "another process has it"};
	imaged_says(2, &answer);
	imaged_hello(3, "alpha", 10, "disk0"); /* it was only out of reach */
	ck_assert_int_eq(sent(3, BROKER_TO_IMAGED_DETACH, NULL), 0);
	ck_assert_int_eq(published("DEVICE_ONLINE/disk0/"), 1);

	core_peer_unreachable(core, now(), 3, &effects);
	attach_at("beta");
	ck_assert_int_eq(sent(2, BROKER_TO_IMAGED_ATTACH, &asked), 1);
	answer = (struct imaged_to_broker){.type = IMAGED_TO_BROKER_ATTACHED,
		.attached = {asked.attach.request, {.device = "disk0",
							   .file = "/leaf",
							   .format = "qcow2",
							   .size = 1 << 20,
							   .nbd = ""}}};
	imaged_says(2, &answer);
	ck_assert_int_eq(published("DEVICE_ONLINE/disk0/"), 1);
	imaged_hello(4, "alpha", 11, "disk0");
	ck_assert_int_eq(sent(4, BROKER_TO_IMAGED_DETACH, NULL), 1);
	end();
}
END_TEST

START_TEST(a_stranger_is_told_to_say_hello)
{
	struct worker_to_broker message = {.type = WORKER_TO_BROKER_WORKER_HEARTBEAT};

	begin();
	imaged_beats(9);
	ck_assert_int_eq(sent(9, BROKER_TO_IMAGED_IMAGED_UNKNOWN, NULL), 1);
	effects_clear(&effects);
	core_worker_message(core, now(), 8, &message, &effects);
	ck_assert_uint_eq(effects.count, 1);
	ck_assert_uint_eq(effects.items[0].peer, 8);
	effects_clear(&effects);
	core_imaged_message(core, now(), 9, NULL, &effects);
	ck_assert_int_eq(sent(9, BROKER_TO_IMAGED_IMAGED_UNKNOWN, NULL), 1);
	end();
}
END_TEST

UNIT_MAIN("core_peers", a_second_live_imaged_of_a_name_is_refused,
	the_name_of_a_silent_imaged_is_taken_over_soon,
	the_name_of_a_dead_imaged_is_taken_over_at_once,
	a_device_is_taken_over_only_from_an_imaged_that_is_away,
	an_imaged_that_comes_back_gets_its_devices_attached_again,
	a_device_detached_by_force_stays_detached_when_its_imaged_is_back,
	a_job_without_a_worker_says_so_after_a_second,
	a_job_whose_imaged_is_away_says_so_and_goes_on,
	a_failed_device_fails_its_job_and_is_attached_anew,
	a_device_moves_only_once_the_other_imaged_has_it_open, a_stranger_is_told_to_say_hello)
