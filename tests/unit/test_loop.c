/* SPDX-License-Identifier: Apache-2.0 */
/* One thread's wait: fairness, removal from callbacks, deadlines, signals. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/loop.h"
#include "tests/unit/folder.h"
#include "tests/unit/unit.h"

#define PATIENCE_MS 20000

/* What the callbacks of one test know. */
struct stage {
	struct loop *loop;
	int ends[2][2]; /* pipes: [..][0] is read */
	unsigned called[2];
	uint64_t started_ms, ticked_ms[8];
	unsigned ticks;
	struct mq *mq;
	struct mq_socket *router[2], *dealer[2];
	struct mq_message *message;
	char order[256];
	size_t order_length;
};

static void stage_open(struct stage *stage)
{
	struct err err;

	*stage = (struct stage){.loop = loop_new(&err), .started_ms = clock_monotonic_ms()};
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(pipe2(stage->ends[i], O_CLOEXEC | O_NONBLOCK), 0);
}

static void stage_close(struct stage *stage)
{
	for (int i = 0; i < 2; i++) {
		close(stage->ends[i][0]);
		close(stage->ends[i][1]);
	}
	loop_free(stage->loop);
}

static void run(struct stage *stage)
{
	struct err err;

	ck_assert_msg(loop_run(stage->loop, &err) == 0, "%s", err.text);
}

static void put(int fd)
{
	ck_assert_int_eq(write(fd, "x", 1), 1);
}

static void stop_after_three(void *owner)
{
	struct stage *stage = owner;

	if (++stage->called[0] == 3)
		loop_stop(stage->loop);
}

START_TEST(a_readable_descriptor_is_told_of_until_it_is_read)
{
	struct stage stage;
	struct err err;
	stage_open(&stage);
	ck_assert_int_eq(
		loop_add_fd(stage.loop, stage.ends[0][0], stop_after_three, &stage, &err), 0);

	put(stage.ends[0][1]);
	run(&stage);

	ck_assert_uint_eq(stage.called[0], 3);
	stage_close(&stage);
}
END_TEST

START_TEST(a_descriptor_that_hung_up_is_told_of)
{
	struct stage stage;
	struct err err;
	stage_open(&stage);
	ck_assert_int_eq(
		loop_add_fd(stage.loop, stage.ends[0][0], stop_after_three, &stage, &err), 0);

	close(stage.ends[0][1]);
	run(&stage);

	ck_assert_uint_eq(stage.called[0], 3);
	stage.ends[0][1] = dup(stage.ends[0][0]);
	stage_close(&stage);
}
END_TEST

/* The first descriptor's callback closes the second, whose number is then another pipe's that
 * nobody wrote to. */
static void replace_the_other(void *owner)
{
	struct stage *stage = owner;
	int fresh[2];
	char byte;

	ck_assert_int_eq(read(stage->ends[0][0], &byte, 1), 1);
	loop_remove_fd(stage->loop, stage->ends[1][0]);
	ck_assert_int_eq(pipe2(fresh, O_CLOEXEC | O_NONBLOCK), 0);
	ck_assert_int_ge(dup3(fresh[0], stage->ends[1][0], O_CLOEXEC), 0);
	close(fresh[0]);
	close(stage->ends[1][1]);
	stage->ends[1][1] = fresh[1];
	stage->called[0]++;
}

static void must_not_be_called(void *owner)
{
	struct stage *stage = owner;

	stage->called[1]++;
}

static uint64_t stop_at_the_third_tick(void *owner, uint64_t now_ms)
{
	struct stage *stage = owner;

	stage->ticked_ms[stage->ticks++] = now_ms;
	if (stage->ticks == 3)
		loop_stop(stage->loop);
	return now_ms + 30;
}

START_TEST(a_removed_descriptor_is_not_told_of_even_if_its_number_is_used_anew)
{
	struct stage stage;
	struct err err;
	stage_open(&stage);
	ck_assert_int_eq(
		loop_add_fd(stage.loop, stage.ends[0][0], replace_the_other, &stage, &err), 0);
	ck_assert_int_eq(
		loop_add_fd(stage.loop, stage.ends[1][0], must_not_be_called, &stage, &err), 0);
	ck_assert_int_eq(loop_add_tick(stage.loop, stop_at_the_third_tick, &stage, &err), 0);

	put(stage.ends[0][1]);
	put(stage.ends[1][1]);
	run(&stage);

	ck_assert_uint_eq(stage.called[0], 1);
	ck_assert_uint_eq(stage.called[1], 0);
	stage_close(&stage);
}
END_TEST

START_TEST(a_tick_is_called_at_once_and_again_when_it_asked_for)
{
	struct stage stage;
	struct err err;
	stage_open(&stage);
	ck_assert_int_eq(loop_add_tick(stage.loop, stop_at_the_third_tick, &stage, &err), 0);

	run(&stage);

	ck_assert_uint_eq(stage.ticks, 3);
	ck_assert_uint_ge(stage.ticked_ms[1] - stage.ticked_ms[0], 30);
	ck_assert_uint_ge(stage.ticked_ms[2] - stage.ticked_ms[1], 30);
	ck_assert_uint_lt(stage.ticked_ms[2] - stage.ticked_ms[0], PATIENCE_MS);
	stage_close(&stage);
}
END_TEST

START_TEST(there_is_room_for_eight_ticks_and_again_after_one_was_removed)
{
	struct stage stage;
	struct err err;
	stage_open(&stage);

	for (int i = 0; i < 8; i++)
		ck_assert_int_eq(loop_add_tick(stage.loop, stop_at_the_third_tick,
					 &stage.called[i % 2], &err),
			0);
	ck_assert_int_eq(loop_add_tick(stage.loop, stop_at_the_third_tick, &stage, &err), -1);
	loop_remove_tick(stage.loop, stop_at_the_third_tick, &stage.called[0]);
	loop_remove_tick(stage.loop, stop_at_the_third_tick, &stage.called[1]);
	ck_assert_int_eq(loop_add_tick(stage.loop, stop_at_the_third_tick, &stage, &err), 0);
	run(&stage);

	ck_assert_uint_eq(stage.ticks, 3);
	stage_close(&stage);
}
END_TEST

START_TEST(a_signal_stops_it_and_it_can_be_run_again)
{
	struct stage stage;
	struct err err;
	stage_open(&stage);
	ck_assert_int_eq(loop_stop_on_signals(stage.loop, &err), 0);

	kill(getpid(), SIGTERM);
	run(&stage);
	kill(getpid(), SIGINT);
	run(&stage);
	ck_assert_int_eq(loop_add_tick(stage.loop, stop_at_the_third_tick, &stage, &err), 0);
	run(&stage);

	ck_assert_uint_eq(stage.ticks, 3);
	stage_close(&stage);
}
END_TEST

START_TEST(descriptors_have_a_limit_that_is_an_error)
{
	struct stage stage;
	struct err err;
	stage_open(&stage);

	for (int i = 0; i < LOOP_SOURCES_MAX; i++)
		ck_assert_int_eq(
			loop_add_fd(stage.loop, stage.ends[0][0], stop_after_three, &stage, &err),
			0);

	ck_assert_int_eq(
		loop_add_fd(stage.loop, stage.ends[0][0], stop_after_three, &stage, &err), -1);
	stage_close(&stage);
}
END_TEST

static void open_sockets(struct stage *stage, const struct folder *folder)
{
	struct err err;

	stage->mq = mq_new(&err);
	stage->message = mq_message_new();
	for (int i = 0; i < 2; i++) {
		const char *endpoint = folder_endpoint(folder, i ? "b" : "a");
		stage->router[i] = mq_socket_new(stage->mq, MQ_ROUTER, NULL, &err);
		stage->dealer[i] = mq_socket_new(stage->mq, MQ_DEALER, NULL, &err);
		ck_assert_int_eq(mq_bind(stage->router[i], endpoint, &err), 0);
		ck_assert_int_eq(mq_connect(stage->dealer[i], endpoint, &err), 0);
	}
}

static void close_sockets(struct stage *stage)
{
	for (int i = 0; i < 2; i++) {
		mq_socket_free(stage->router[i]);
		mq_socket_free(stage->dealer[i]);
	}
	mq_message_free(stage->message);
	mq_free(stage->mq);
}

static void send_many(struct mq_socket *socket, unsigned count)
{
	struct mq_frame frame = {"x", 1};
	struct err err;

	for (unsigned i = 0; i < count; i++)
		ck_assert_int_eq(mq_send(socket, &frame, 1, &err), MQ_SENT);
}

static void wait_readable(struct mq_socket *socket)
{
	uint64_t deadline_ms = clock_monotonic_ms() + PATIENCE_MS;

	while (!mq_readable(socket)) {
		ck_assert(clock_monotonic_ms() < deadline_ms);
		poll(NULL, 0, 2);
	}
}

/* The other one has a message by the time of the next look, or none is left for it: it may be on its way still. */
static void take(struct stage *stage, int i)
{
	struct err err;

	ck_assert_int_eq(mq_receive(stage->router[i], stage->message, &err), 1);
	stage->order[stage->order_length++] = i ? 'b' : 'a';
	stage->called[i]++;
	if (stage->order_length == 40)
		loop_stop(stage->loop);
	else if (stage->called[!i] < 20)
		wait_readable(stage->router[!i]);
}

static void take_a(void *owner)
{
	take(owner, 0);
}

static void take_b(void *owner)
{
	take(owner, 1);
}

/* The trap: a ZeroMQ descriptor speaks up once, whatever the number of messages. */
START_TEST(every_message_that_waits_is_told_of_and_sockets_take_turns)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct stage stage;
	struct err err;
	stage_open(&stage);
	open_sockets(&stage, &folder);
	send_many(stage.dealer[0], 20);
	send_many(stage.dealer[1], 20);
	wait_readable(stage.router[0]);
	wait_readable(stage.router[1]);

	ck_assert_int_eq(loop_add_socket(stage.loop, stage.router[0], take_a, &stage, &err), 0);
	ck_assert_int_eq(loop_add_socket(stage.loop, stage.router[1], take_b, &stage, &err), 0);
	run(&stage);

	ck_assert_uint_eq(stage.order_length, 40);
	for (size_t i = 0; i < 40; i++)
		ck_assert_int_eq(stage.order[i], i % 2 ? 'b' : 'a');
	close_sockets(&stage);
	stage_close(&stage);
}
END_TEST

/* The other trap: a message that comes before our own send is not signalled. */
static uint64_t send_from_tick(void *owner, uint64_t now_ms)
{
	struct stage *stage = owner;
	struct err err;
	struct mq_frame frames[] = {mq_message_frame(stage->message, 0), {"y", 1}};

	if (stage->ticks++ == 0) {
		send_many(stage->dealer[0], 1);
		poll(NULL, 0, 100);
		ck_assert_int_eq(mq_send(stage->router[0], frames, 2, &err), MQ_SENT);
	}
	return now_ms + PATIENCE_MS;
}

static void stop_at_message(void *owner)
{
	struct stage *stage = owner;
	struct err err;

	ck_assert_int_eq(mq_receive(stage->router[0], stage->message, &err), 1);
	stage->called[0]++;
	loop_stop(stage->loop);
}

START_TEST(a_message_that_came_before_our_own_send_is_told_of)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct stage stage;
	struct err err;
	stage_open(&stage);
	open_sockets(&stage, &folder);
	send_many(stage.dealer[0], 1);
	wait_readable(stage.router[0]);
	ck_assert_int_eq(mq_receive(stage.router[0], stage.message, &err), 1);

	ck_assert_int_eq(
		loop_add_socket(stage.loop, stage.router[0], stop_at_message, &stage, &err), 0);
	ck_assert_int_eq(loop_add_tick(stage.loop, send_from_tick, &stage, &err), 0);
	run(&stage);

	ck_assert_uint_eq(stage.called[0], 1);
	ck_assert_uint_lt(clock_monotonic_ms() - stage.started_ms, PATIENCE_MS);
	close_sockets(&stage);
	stage_close(&stage);
}
END_TEST

static void free_both(void *owner)
{
	struct stage *stage = owner;

	stage->called[0]++;
	for (int i = 0; i < 2; i++) {
		loop_remove_socket(stage->loop, stage->router[i]);
		mq_socket_free(stage->router[i]);
		stage->router[i] = NULL;
	}
}

START_TEST(a_callback_may_remove_and_free_any_socket)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct stage stage;
	struct err err;
	stage_open(&stage);
	open_sockets(&stage, &folder);
	send_many(stage.dealer[0], 3);
	send_many(stage.dealer[1], 3);
	wait_readable(stage.router[0]);
	wait_readable(stage.router[1]);

	ck_assert_int_eq(loop_add_socket(stage.loop, stage.router[0], free_both, &stage, &err), 0);
	ck_assert_int_eq(loop_add_socket(stage.loop, stage.router[1], free_both, &stage, &err), 0);
	ck_assert_int_eq(loop_add_tick(stage.loop, stop_at_the_third_tick, &stage, &err), 0);
	run(&stage);

	ck_assert_uint_eq(stage.called[0], 1);
	close_sockets(&stage);
	stage_close(&stage);
}
END_TEST

UNIT_MAIN("loop", a_readable_descriptor_is_told_of_until_it_is_read,
	a_descriptor_that_hung_up_is_told_of,
	a_removed_descriptor_is_not_told_of_even_if_its_number_is_used_anew,
	a_tick_is_called_at_once_and_again_when_it_asked_for,
	there_is_room_for_eight_ticks_and_again_after_one_was_removed,
	a_signal_stops_it_and_it_can_be_run_again, descriptors_have_a_limit_that_is_an_error,
	every_message_that_waits_is_told_of_and_sockets_take_turns,
	a_message_that_came_before_our_own_send_is_told_of,
	a_callback_may_remove_and_free_any_socket)
