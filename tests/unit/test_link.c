/* SPDX-License-Identifier: Apache-2.0 */
/* A link and a broker that comes, goes, falls silent and comes again, both in one loop. */
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/link.h"
#include "tests/unit/folder.h"
#include "tests/unit/unit.h"

#define HEARTBEAT_MS 40
#define TIMEOUT_MS   2000 /* not to be scheduled for so long looks like silence */
#define PATIENCE_MS  20000

/* The broker's side welcomes on "hello" while `welcomes`, and says "who" to a heartbeat before any
 * hello, or when it `forgets`: then, not before, so that a hello that was said twice is behind it. */
struct stage {
	struct mq *mq;
	struct loop *loop;
	struct mq_socket *broker;
	struct link *link;
	struct mq_message *message;
	const char *endpoint;
	bool welcomes, forgets;
	uint64_t pace_ms;					 /* what a welcome asks for */
	unsigned hellos_heard, beats_heard, texts_heard;	 /* by the broker */
	unsigned hellos_said, beats_said, lost, welcomed, asked; /* by the link's owner */
	uint64_t deadline_ms;
	bool (*is_done)(const struct stage *);
	unsigned goal;
	uint64_t goal_ms;
};

static void broker_say(struct stage *stage, const struct mq_frame *peer, const char *text)
{
	struct mq_frame frames[] = {*peer, {text, strlen(text)}};
	struct err err;

	ck_assert_int_ge(mq_send(stage->broker, frames, 2, &err), 0);
}

static void broker_read(void *owner)
{
	struct stage *stage = owner;
	struct err err;

	int rc = mq_receive(stage->broker, stage->message, &err);
	ck_assert_int_ge(rc, 0);
	if (rc == 0)
		return;
	struct mq_frame peer = mq_message_frame(stage->message, 0);
	struct mq_frame body =
		mq_message_frame(stage->message, mq_message_count(stage->message) - 1);
	if (body.length == 5 && memcmp(body.bytes, "hello", 5) == 0) {
		stage->hellos_heard++;
		if (stage->welcomes)
			broker_say(stage, &peer, "welcome");
	} else if (body.length == 4 && memcmp(body.bytes, "beat", 4) == 0) {
		stage->beats_heard++;
		if (stage->forgets)
			stage->hellos_heard = 0;
		stage->forgets = false;
		broker_say(stage, &peer, stage->hellos_heard ? "beat" : "who");
	} else {
		stage->texts_heard++;
	}
}

static void broker_start(struct stage *stage)
{
	const struct mq_options options = {.queue_messages = 10};
	struct err err;

	stage->hellos_heard = stage->beats_heard = stage->texts_heard = 0;
	stage->broker = mq_socket_new(stage->mq, MQ_ROUTER, &options, &err);
	ck_assert_ptr_nonnull(stage->broker);
	/* the one before may still be closing on ZeroMQ's own thread */
	for (uint64_t end = clock_monotonic_ms() + PATIENCE_MS;
		mq_bind(stage->broker, stage->endpoint, &err) < 0;) {
		ck_assert_msg(clock_monotonic_ms() < end, "%s", err.text);
		poll(NULL, 0, 2);
	}
	ck_assert_int_eq(loop_add_socket(stage->loop, stage->broker, broker_read, stage, &err), 0);
}

static void broker_end(struct stage *stage)
{
	loop_remove_socket(stage->loop, stage->broker);
	mq_socket_free(stage->broker);
	stage->broker = NULL;
}

static void received(void *owner, const void *bytes, size_t length)
{
	struct stage *stage = owner;

	if (length == 7 && memcmp(bytes, "welcome", 7) == 0) {
		stage->welcomed++;
		link_welcomed(stage->link, stage->pace_ms);
	} else if (length == 3 && memcmp(bytes, "who", 3) == 0) {
		stage->asked++;
		link_say_hello(stage->link);
	}
}

static void say_hello(void *owner)
{
	struct stage *stage = owner;

	stage->hellos_said++;
	ck_assert_int_eq(link_send(stage->link, "hello", 5), 0);
}

static void say_heartbeat(void *owner)
{
	struct stage *stage = owner;

	stage->beats_said++;
	link_send(stage->link, "beat", 4);
}

static void lost(void *owner)
{
	struct stage *stage = owner;

	ck_assert(!link_is_up(stage->link));
	stage->lost++;
}

static uint64_t look(void *owner, uint64_t now_ms)
{
	struct stage *stage = owner;

	ck_assert_msg(now_ms < stage->deadline_ms, "waited too long");
	if (stage->is_done(stage))
		loop_stop(stage->loop);
	return now_ms + 5;
}

static void run_until(struct stage *stage, bool (*is_done)(const struct stage *))
{
	struct err err;

	stage->is_done = is_done;
	stage->deadline_ms = clock_monotonic_ms() + PATIENCE_MS;
	ck_assert_int_eq(loop_run(stage->loop, &err), 0);
}

static void stage_open_with_timeout(struct stage *stage, const char *endpoint, uint64_t timeout_ms)
{
	const struct link_owner owner = {.owner = stage,
		.received = received,
		.say_hello = say_hello,
		.say_heartbeat = say_heartbeat,
		.lost = lost};
	const struct link_options options = {
		.endpoint = endpoint, .heartbeat_ms = HEARTBEAT_MS, .timeout_ms = timeout_ms};
	struct err err;

	*stage = (struct stage){.endpoint = endpoint,
		.message = mq_message_new(),
		.welcomes = true,
		.pace_ms = HEARTBEAT_MS};
	stage->mq = mq_new(&err);
	stage->loop = loop_new(&err);
	ck_assert_int_eq(loop_add_tick(stage->loop, look, stage, &err), 0);
	stage->link = link_new(stage->mq, stage->loop, &options, &owner, &err);
	ck_assert_msg(stage->link != NULL, "%s", err.text);
}

static void stage_open(struct stage *stage, const char *endpoint)
{
	stage_open_with_timeout(stage, endpoint, TIMEOUT_MS);
}

static void stage_close(struct stage *stage)
{
	link_free(stage->link);
	if (stage->broker)
		broker_end(stage);
	loop_free(stage->loop);
	mq_message_free(stage->message);
	mq_free(stage->mq);
}

static bool is_up(const struct stage *stage)
{
	return link_is_up(stage->link);
}

static bool is_down(const struct stage *stage)
{
	return !link_is_up(stage->link);
}

static bool has_said_three_hellos(const struct stage *stage)
{
	return stage->hellos_heard >= 3;
}

static bool has_heard_three_beats(const struct stage *stage)
{
	return stage->beats_heard >= 3;
}

static bool has_heard_beats_beyond_the_timeout(const struct stage *stage)
{
	return stage->beats_heard >= 3 && clock_monotonic_ms() > stage->goal_ms;
}

static bool was_lost(const struct stage *stage)
{
	return stage->lost >= stage->goal;
}

START_TEST(hello_is_repeated_until_welcomed)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct stage stage;
	stage_open(&stage, folder_endpoint(&folder, "workers"));
	broker_start(&stage);

	stage.welcomes = false;
	run_until(&stage, has_said_three_hellos);
	ck_assert(!link_is_up(stage.link));
	stage.welcomes = true;
	run_until(&stage, is_up);

	ck_assert_uint_eq(stage.lost, 0);
	stage_close(&stage);
}
END_TEST

START_TEST(heartbeats_are_said_as_often_as_the_welcome_asks_for)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct stage stage;
	uint64_t begun_ms;
	stage_open_with_timeout(&stage, folder_endpoint(&folder, "workers"), 3 * PATIENCE_MS);
	stage.pace_ms = 10 * HEARTBEAT_MS;
	broker_start(&stage);

	run_until(&stage, is_up);
	begun_ms = clock_monotonic_ms();
	run_until(&stage, has_heard_three_beats);

	ck_assert_uint_ge(clock_monotonic_ms() - begun_ms, 20 * HEARTBEAT_MS);
	stage_close(&stage);
}
END_TEST

START_TEST(a_broker_that_comes_later_is_found)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct stage stage;
	stage_open(&stage, folder_endpoint(&folder, "workers"));

	stage.goal = 0;
	run_until(&stage, was_lost);
	ck_assert_uint_eq(stage.hellos_said, 0);
	ck_assert_int_eq(link_send(stage.link, "text", 4), 1);
	broker_start(&stage);
	run_until(&stage, is_up);

	ck_assert_uint_eq(stage.texts_heard, 0);
	stage_close(&stage);
}
END_TEST

START_TEST(heartbeats_keep_it_up)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct stage stage;
	stage_open(&stage, folder_endpoint(&folder, "workers"));
	broker_start(&stage);

	run_until(&stage, is_up);
	stage.goal_ms = clock_monotonic_ms() + TIMEOUT_MS + 2 * HEARTBEAT_MS;
	run_until(&stage, has_heard_beats_beyond_the_timeout);

	ck_assert(link_is_up(stage.link));
	ck_assert_uint_eq(stage.lost, 0);
	stage_close(&stage);
}
END_TEST

START_TEST(silence_puts_it_down_and_what_was_queued_is_never_heard)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct stage stage;
	stage_open(&stage, folder_endpoint(&folder, "workers"));
	broker_start(&stage);
	run_until(&stage, is_up);

	/* a broker that takes connections but reads nothing, and more than it and the kernel hold
	 * for it */
	static const char text[60000];
	loop_remove_socket(stage.loop, stage.broker);
	for (int i = 0; i < 100; i++)
		ck_assert_int_eq(link_send(stage.link, text, sizeof text), 0);
	stage.goal = 1;
	run_until(&stage, was_lost);
	ck_assert(!link_is_up(stage.link));
	mq_socket_free(stage.broker);
	broker_start(&stage);
	run_until(&stage, is_up);

	ck_assert_uint_eq(stage.lost, 1);
	ck_assert_uint_eq(stage.texts_heard, 0);
	stage_close(&stage);
}
END_TEST

START_TEST(a_broker_that_ended_is_noticed_and_a_new_one_at_the_same_path_is_found)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct stage stage;
	stage_open_with_timeout(&stage, folder_endpoint(&folder, "workers"), 3 * PATIENCE_MS);
	broker_start(&stage);
	run_until(&stage, is_up);

	broker_end(&stage);
	stage.goal = 1;
	run_until(&stage, was_lost); /* a heartbeat that found nobody, long before the timeout */
	ck_assert(!link_is_up(stage.link));
	broker_start(&stage);
	run_until(&stage, is_up);

	ck_assert_uint_ge(stage.hellos_heard, 1);
	stage_close(&stage);
}
END_TEST

START_TEST(a_broker_that_forgot_us_gets_a_hello_at_once)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct stage stage;
	stage_open(&stage, folder_endpoint(&folder, "workers"));
	broker_start(&stage);
	run_until(&stage, is_up);

	stage.forgets = true;
	stage.welcomed = 0;
	run_until(&stage, is_down);
	run_until(&stage, is_up);

	ck_assert_uint_ge(stage.asked, 1);
	ck_assert_uint_ge(stage.welcomed, 1);
	stage_close(&stage);
}
END_TEST

START_TEST(an_endpoint_that_is_none_is_refused)
{
	struct err err;
	struct mq *mq = mq_new(&err);
	struct loop *loop = loop_new(&err);
	struct link_owner owner = {.owner = NULL};
	struct link_options options = {
		.endpoint = "carrier-pigeon", .heartbeat_ms = 1, .timeout_ms = 1};

	ck_assert_ptr_null(link_new(mq, loop, &options, &owner, &err));

	ck_assert_ptr_nonnull(strstr(err.text, "carrier-pigeon"));
	loop_free(loop);
	mq_free(mq);
}
END_TEST

UNIT_MAIN("link", hello_is_repeated_until_welcomed,
	heartbeats_are_said_as_often_as_the_welcome_asks_for, a_broker_that_comes_later_is_found,
	heartbeats_keep_it_up, silence_puts_it_down_and_what_was_queued_is_never_heard,
	a_broker_that_ended_is_noticed_and_a_new_one_at_the_same_path_is_found,
	a_broker_that_forgot_us_gets_a_hello_at_once, an_endpoint_that_is_none_is_refused)
