/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets among friends, and among peers that are gone, slow, rude or many. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/mq.h"
#include "tests/unit/folder.h"
#include "tests/unit/unit.h"

#define PATIENCE_MS 20000

static struct mq *make_mq(void)
{
	struct err err;
	struct mq *mq = mq_new(&err);

	ck_assert_msg(mq != NULL, "%s", err.text);
	return mq;
}

static struct mq_socket *make_socket(struct mq *mq, enum mq_kind kind, struct mq_options options)
{
	struct err err;
	struct mq_socket *socket = mq_socket_new(mq, kind, &options, &err);

	ck_assert_msg(socket != NULL, "%s", err.text);
	return socket;
}

static struct mq_socket *make_bound(
	struct mq *mq, enum mq_kind kind, const char *endpoint, struct mq_options options)
{
	struct mq_socket *socket = make_socket(mq, kind, options);
	struct err err;

	ck_assert_msg(mq_bind(socket, endpoint, &err) == 0, "%s", err.text);
	return socket;
}

static struct mq_socket *make_connected(
	struct mq *mq, enum mq_kind kind, const char *endpoint, struct mq_options options)
{
	struct mq_socket *socket = make_socket(mq, kind, options);
	struct err err;

	ck_assert_msg(mq_connect(socket, endpoint, &err) == 0, "%s", err.text);
	return socket;
}

/* Whether a message comes within the time. */
static bool receive_within(
	struct mq_socket *socket, struct mq_message *message, uint64_t patience_ms)
{
	uint64_t deadline_ms = clock_monotonic_ms() + patience_ms;
	struct err err;

	while (clock_monotonic_ms() < deadline_ms) {
		int rc = mq_receive(socket, message, &err);
		ck_assert_msg(rc >= 0, "%s", err.text);
		if (rc == 1)
			return true;
		struct pollfd poll_fd = {.fd = mq_fd(socket), .events = POLLIN};
		if (!mq_readable(socket))
			poll(&poll_fd, 1, 10);
	}
	return false;
}

static void send_text(struct mq_socket *socket, const char *text)
{
	struct mq_frame frame = {text, strlen(text)};
	struct err err;

	ck_assert_int_eq(mq_send(socket, &frame, 1, &err), MQ_SENT);
}

static bool has_body(const struct mq_message *message, const char *text)
{
	struct mq_frame body = mq_message_frame(message, mq_message_count(message) - 1);

	return body.length == strlen(text) && memcmp(body.bytes, text, body.length) == 0;
}

static void assert_body(const struct mq_message *message, const char *text)
{
	ck_assert(has_body(message, text));
}

START_TEST(a_message_travels_with_its_envelope_and_so_does_the_answer)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct mq *mq = make_mq();
	const char *endpoint = folder_endpoint(&folder, "s");
	struct mq_socket *router = make_bound(mq, MQ_ROUTER, endpoint, (struct mq_options){0});
	struct mq_socket *dealer = make_connected(mq, MQ_DEALER, endpoint, (struct mq_options){0});
	struct mq_message *message = mq_message_new();
	struct mq_frame request[] = {{"envelope", 8}, {"", 0}, {"body", 4}};
	struct err err;

	ck_assert_int_eq(mq_send(dealer, request, 3, &err), MQ_SENT);
	ck_assert(receive_within(router, message, PATIENCE_MS));
	ck_assert_uint_eq(mq_message_count(message), 4);
	assert_body(message, "body");
	struct mq_frame answer[] = {mq_message_frame(message, 0), mq_message_frame(message, 1),
		mq_message_frame(message, 2), {"answer", 6}};
	ck_assert_int_eq(mq_send(router, answer, 4, &err), MQ_SENT);
	ck_assert(receive_within(dealer, message, PATIENCE_MS));

	ck_assert_uint_eq(mq_message_count(message), 3);
	ck_assert_mem_eq(mq_message_frame(message, 0).bytes, "envelope", 8);
	assert_body(message, "answer");
	ck_assert_int_eq(mq_receive(dealer, message, &err), 0);
	mq_message_free(message);
	mq_socket_free(dealer);
	mq_socket_free(router);
	mq_free(mq);
}
END_TEST

START_TEST(a_stranger_is_gone)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct mq *mq = make_mq();
	struct mq_socket *router =
		make_bound(mq, MQ_ROUTER, folder_endpoint(&folder, "s"), (struct mq_options){0});
	struct mq_frame frames[] = {{"\0abcd", 5}, {"body", 4}};
	struct err err;

	ck_assert_int_eq(mq_send(router, frames, 2, &err), MQ_PEER_GONE);

	mq_socket_free(router);
	mq_free(mq);
}
END_TEST

START_TEST(a_peer_that_ended_is_gone)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct mq *mq = make_mq();
	const char *endpoint = folder_endpoint(&folder, "s");
	struct mq_socket *router = make_bound(mq, MQ_ROUTER, endpoint, (struct mq_options){0});
	struct mq_socket *dealer = make_connected(mq, MQ_DEALER, endpoint, (struct mq_options){0});
	struct mq_message *message = mq_message_new();
	uint64_t deadline_ms = clock_monotonic_ms() + PATIENCE_MS;
	struct err err;
	int rc = MQ_SENT;

	send_text(dealer, "hello");
	ck_assert(receive_within(router, message, PATIENCE_MS));
	mq_socket_free(dealer);
	while (rc == MQ_SENT && clock_monotonic_ms() < deadline_ms) {
		struct mq_frame frames[] = {mq_message_frame(message, 0), {"body", 4}};
		rc = mq_send(router, frames, 2, &err);
		poll(NULL, 0, 5);
	}

	ck_assert_int_eq(rc, MQ_PEER_GONE);
	mq_message_free(message);
	mq_socket_free(router);
	mq_free(mq);
}
END_TEST

START_TEST(a_peer_that_reads_nothing_is_full_and_never_waited_for)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct mq *mq = make_mq();
	const char *endpoint = folder_endpoint(&folder, "s");
	struct mq_options few = {.queue_messages = 4};
	struct mq_socket *router = make_bound(mq, MQ_ROUTER, endpoint, few);
	struct mq_socket *dealer = make_connected(mq, MQ_DEALER, endpoint, few);
	struct mq_message *message = mq_message_new();
	static const char body[60000];
	struct err err;
	int rc = MQ_SENT;
	unsigned sent = 0;

	send_text(dealer, "hello");
	ck_assert(receive_within(router, message, PATIENCE_MS));
	struct mq_frame frames[] = {mq_message_frame(message, 0), {body, sizeof body}};
	for (; rc == MQ_SENT && sent < 10000; sent++)
		rc = mq_send(router, frames, 2, &err);

	ck_assert_int_eq(rc, MQ_PEER_FULL);
	ck_assert(!mq_readable(router));
	mq_message_free(message);
	mq_socket_free(dealer);
	mq_socket_free(router);
	mq_free(mq);
}
END_TEST

START_TEST(a_connected_socket_queues_nothing_for_nobody_if_asked_not_to)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct mq *mq = make_mq();
	const char *endpoint = folder_endpoint(&folder, "s");
	struct mq_socket *dealer = make_connected(
		mq, MQ_DEALER, endpoint, (struct mq_options){.only_when_connected = true});
	struct mq_message *message = mq_message_new();
	struct mq_frame frame = {"early", 5};
	struct err err;

	ck_assert(!mq_writable(dealer));
	ck_assert_int_eq(mq_send(dealer, &frame, 1, &err), MQ_PEER_FULL);
	struct mq_socket *router = make_bound(mq, MQ_ROUTER, endpoint, (struct mq_options){0});
	for (uint64_t end = clock_monotonic_ms() + PATIENCE_MS;
		!mq_writable(dealer) && clock_monotonic_ms() < end;)
		poll(NULL, 0, 5);
	send_text(dealer, "late");

	ck_assert(receive_within(router, message, PATIENCE_MS));
	assert_body(message, "late");
	mq_message_free(message);
	mq_socket_free(dealer);
	mq_socket_free(router);
	mq_free(mq);
}
END_TEST

/* Sends a bad message and a good one; the bad one must be dropped and counted. */
static void assert_dropped(const struct mq_frame *frames, size_t count)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct mq *mq = make_mq();
	const char *endpoint = folder_endpoint(&folder, "s");
	struct mq_socket *router = make_bound(mq, MQ_ROUTER, endpoint, (struct mq_options){0});
	struct mq_socket *dealer = make_connected(mq, MQ_DEALER, endpoint, (struct mq_options){0});
	struct mq_message *message = mq_message_new();
	struct err err;

	ck_assert_int_eq(mq_send(dealer, frames, count, &err), MQ_SENT);
	send_text(dealer, "good");

	ck_assert(receive_within(router, message, PATIENCE_MS));
	assert_body(message, "good");
	ck_assert_uint_eq(mq_dropped(router), 1);
	mq_message_free(message);
	mq_socket_free(dealer);
	mq_socket_free(router);
	mq_free(mq);
}

START_TEST(a_message_of_too_many_frames_is_dropped_and_counted)
{
	struct mq_frame frames[MQ_FRAMES_MAX];

	for (size_t i = 0; i < MQ_FRAMES_MAX; i++)
		frames[i] = (struct mq_frame){"x", 1};

	assert_dropped(frames, MQ_FRAMES_MAX); /* and the routing id */
}
END_TEST

START_TEST(a_long_frame_before_the_body_is_dropped_and_counted)
{
	static const char envelope[MQ_ENVELOPE_FRAME_MAX + 1];
	struct mq_frame frames[] = {{envelope, sizeof envelope}, {"body", 4}};

	assert_dropped(frames, 2);
}
END_TEST

START_TEST(a_bomb_of_frames_is_drained_as_one_message)
{
	enum { COUNT = 100000 };
	static const char bytes[250];
	struct mq_frame *frames = must_calloc(COUNT, sizeof *frames);

	for (size_t i = 0; i < COUNT; i++)
		frames[i] = (struct mq_frame){bytes, sizeof bytes};

	assert_dropped(frames, COUNT);
	free(frames);
}
END_TEST

START_TEST(the_most_frames_and_the_longest_envelope_are_fine)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct mq *mq = make_mq();
	const char *endpoint = folder_endpoint(&folder, "s");
	struct mq_socket *router = make_bound(mq, MQ_ROUTER, endpoint, (struct mq_options){0});
	struct mq_socket *dealer = make_connected(mq, MQ_DEALER, endpoint, (struct mq_options){0});
	struct mq_message *message = mq_message_new();
	static const char bytes[MQ_ENVELOPE_FRAME_MAX];
	struct mq_frame frames[MQ_FRAMES_MAX - 1];
	struct err err;

	for (size_t i = 0; i < MQ_FRAMES_MAX - 1; i++)
		frames[i] = (struct mq_frame){bytes, sizeof bytes};
	ck_assert_int_eq(mq_send(dealer, frames, MQ_FRAMES_MAX - 1, &err), MQ_SENT);

	ck_assert(receive_within(router, message, PATIENCE_MS));
	ck_assert_uint_eq(mq_message_count(message), MQ_FRAMES_MAX);
	ck_assert_uint_eq(mq_dropped(router), 0);
	mq_message_free(message);
	mq_socket_free(dealer);
	mq_socket_free(router);
	mq_free(mq);
}
END_TEST

START_TEST(a_frame_over_the_limit_costs_only_its_sender_the_connection)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct mq *mq = make_mq();
	const char *endpoint = folder_endpoint(&folder, "s");
	struct mq_socket *router =
		make_bound(mq, MQ_ROUTER, endpoint, (struct mq_options){.max_frame_bytes = 1000});
	struct mq_socket *rude = make_connected(mq, MQ_DEALER, endpoint, (struct mq_options){0});
	struct mq_socket *other = make_connected(mq, MQ_DEALER, endpoint, (struct mq_options){0});
	struct mq_message *message = mq_message_new();
	static const char bytes[1001];
	struct mq_frame frame = {bytes, sizeof bytes};
	struct err err;

	ck_assert_int_eq(mq_send(rude, &frame, 1, &err), MQ_SENT);
	send_text(other, "good");

	ck_assert(receive_within(router, message, PATIENCE_MS));
	assert_body(message, "good");
	ck_assert(!receive_within(router, message, 200));
	mq_message_free(message);
	mq_socket_free(rude);
	mq_socket_free(other);
	mq_socket_free(router);
	mq_free(mq);
}
END_TEST

START_TEST(an_event_reaches_who_subscribed_to_its_beginning)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct mq *mq = make_mq();
	const char *endpoint = folder_endpoint(&folder, "s");
	struct mq_socket *pub = make_bound(mq, MQ_PUB, endpoint, (struct mq_options){0});
	struct mq_socket *sub = make_connected(mq, MQ_SUB, endpoint, (struct mq_options){0});
	struct mq_message *message = mq_message_new();
	struct mq_frame other[] = {{"OTHER/b/", 8}, {"no", 2}};
	struct mq_frame ours[] = {{"DONE/a/", 7}, {"yes", 3}};
	uint64_t deadline_ms = clock_monotonic_ms() + PATIENCE_MS;
	bool is_received = false;
	struct err err;

	ck_assert_int_eq(mq_subscribe(sub, "DONE/", &err), 0);
	while (!is_received && clock_monotonic_ms() < deadline_ms) {
		ck_assert_int_eq(mq_send(pub, other, 2, &err), MQ_SENT);
		ck_assert_int_eq(mq_send(pub, ours, 2, &err), MQ_SENT);
		is_received = receive_within(sub, message, 20);
	}

	ck_assert(is_received);
	ck_assert_uint_eq(mq_message_count(message), 2);
	assert_body(message, "yes");
	mq_message_free(message);
	mq_socket_free(sub);
	mq_socket_free(pub);
	mq_free(mq);
}
END_TEST

START_TEST(a_wildcard_port_is_told)
{
	struct mq *mq = make_mq();
	struct mq_socket *router =
		make_bound(mq, MQ_ROUTER, "tcp://127.0.0.1:*", (struct mq_options){0});
	struct mq_message *message = mq_message_new();

	ck_assert_ptr_null(strchr(mq_bound_endpoint(router, 0), '*'));
	ck_assert_ptr_null(mq_bound_endpoint(router, 1));
	struct mq_socket *dealer =
		make_connected(mq, MQ_DEALER, mq_bound_endpoint(router, 0), (struct mq_options){0});
	send_text(dealer, "over tcp");

	ck_assert(receive_within(router, message, PATIENCE_MS));
	assert_body(message, "over tcp");
	mq_message_free(message);
	mq_socket_free(dealer);
	mq_socket_free(router);
	mq_free(mq);
}
END_TEST

START_TEST(a_path_too_long_for_a_socket_is_refused_with_its_length)
{
	struct mq *mq = make_mq();
	struct mq_socket *router = make_socket(mq, MQ_ROUTER, (struct mq_options){0});
	char endpoint[300] = "ipc:///tmp/";
	struct err err;

	memset(endpoint + strlen(endpoint), 'x', 108 - strlen("/tmp/"));

	ck_assert_int_eq(mq_bind(router, endpoint, &err), -1);
	ck_assert_ptr_nonnull(strstr(err.text, "at most 107 bytes, this one has 108"));
	ck_assert_int_eq(mq_connect(router, endpoint, &err), -1);
	ck_assert_ptr_nonnull(strstr(err.text, "at most 107 bytes, this one has 108"));
	mq_socket_free(router);
	mq_free(mq);
}
END_TEST

START_TEST(an_endpoint_of_no_known_form_is_refused)
{
	static const char *const endpoints[] = {
		"", "ipc", "tcp://", "tcp://127.0.0.1", "smoke://signal", "ipc://"};
	struct mq *mq = make_mq();
	struct mq_socket *router = make_socket(mq, MQ_ROUTER, (struct mq_options){0});

	for (size_t i = 0; i < sizeof endpoints / sizeof endpoints[0]; i++) {
		struct err err = {.text = ""};
		ck_assert_msg(mq_bind(router, endpoints[i], &err) == -1, "%s", endpoints[i]);
		ck_assert_str_ne(err.text, "");
	}
	mq_socket_free(router);
	mq_free(mq);
}
END_TEST

START_TEST(a_socket_that_answers_is_not_taken_away)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct mq *mq = make_mq();
	const char *endpoint = folder_endpoint(&folder, "s");
	struct mq_socket *first = make_bound(mq, MQ_ROUTER, endpoint, (struct mq_options){0});
	struct mq_socket *second = make_socket(mq, MQ_ROUTER, (struct mq_options){0});
	struct mq_socket *dealer = make_connected(mq, MQ_DEALER, endpoint, (struct mq_options){0});
	struct mq_message *message = mq_message_new();
	struct err err;

	ck_assert_int_eq(mq_bind(second, endpoint, &err), -1);

	ck_assert_ptr_nonnull(strstr(err.text, "somebody listens there already"));
	send_text(dealer, "still");
	ck_assert(receive_within(first, message, PATIENCE_MS));
	mq_message_free(message);
	mq_socket_free(dealer);
	mq_socket_free(second);
	mq_socket_free(first);
	mq_free(mq);
}
END_TEST

static struct sockaddr_un address_of(const struct folder *folder)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	snprintf(address.sun_path, sizeof address.sun_path, "%s/s", folder->path);
	return address;
}

START_TEST(a_stale_socket_is_replaced_and_the_new_one_has_mode_0660)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct sockaddr_un address = address_of(&folder);
	struct mq *mq = make_mq();
	struct stat status;

	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
	close(fd);
	struct mq_socket *router =
		make_bound(mq, MQ_ROUTER, folder_endpoint(&folder, "s"), (struct mq_options){0});

	ck_assert_int_eq(stat(address.sun_path, &status), 0);
	ck_assert_uint_eq(status.st_mode & 07777, 0660);
	mq_socket_free(router);
	mq_free(mq);
}
END_TEST

START_TEST(a_file_in_the_way_is_left_alone)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct mq *mq = make_mq();
	struct mq_socket *router = make_socket(mq, MQ_ROUTER, (struct mq_options){0});
	const char *path = folder_name(&folder, "s");
	struct err err;

	close(open(path, O_CREAT | O_WRONLY, 0600));
	ck_assert_int_eq(mq_bind(router, folder_endpoint(&folder, "s"), &err), -1);

	ck_assert_ptr_nonnull(strstr(err.text, "is no socket"));
	ck_assert_int_eq(access(path, F_OK), 0);
	mq_socket_free(router);
	mq_free(mq);
}
END_TEST

START_TEST(noise_from_a_peer_that_speaks_no_zmtp_disturbs_nobody)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct sockaddr_un address = address_of(&folder);
	struct mq *mq = make_mq();
	const char *endpoint = folder_endpoint(&folder, "s");
	struct mq_socket *router = make_bound(mq, MQ_ROUTER, endpoint, (struct mq_options){0});
	struct mq_message *message = mq_message_new();
	unsigned seed = 7;

	for (int i = 0; i < 200; i++) {
		char bytes[512];
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);
		ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
		for (size_t j = 0; j < sizeof bytes; j++)
			bytes[j] = (char)rand_r(&seed);
		send(fd, bytes, sizeof bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
		close(fd);
	}
	struct mq_socket *dealer = make_connected(mq, MQ_DEALER, endpoint, (struct mq_options){0});
	send_text(dealer, "good");

	/* some noise happens to be a message of ZMTP 1.0 */
	do
		ck_assert(receive_within(router, message, PATIENCE_MS));
	while (!has_body(message, "good"));
	mq_message_free(message);
	mq_socket_free(dealer);
	mq_socket_free(router);
	mq_free(mq);
}
END_TEST

UNIT_MAIN("mq", a_message_travels_with_its_envelope_and_so_does_the_answer, a_stranger_is_gone,
	a_peer_that_ended_is_gone, a_peer_that_reads_nothing_is_full_and_never_waited_for,
	a_connected_socket_queues_nothing_for_nobody_if_asked_not_to,
	a_message_of_too_many_frames_is_dropped_and_counted,
	a_long_frame_before_the_body_is_dropped_and_counted,
	a_bomb_of_frames_is_drained_as_one_message,
	the_most_frames_and_the_longest_envelope_are_fine,
	a_frame_over_the_limit_costs_only_its_sender_the_connection,
	an_event_reaches_who_subscribed_to_its_beginning, a_wildcard_port_is_told,
	a_path_too_long_for_a_socket_is_refused_with_its_length,
	an_endpoint_of_no_known_form_is_refused, a_socket_that_answers_is_not_taken_away,
	a_stale_socket_is_replaced_and_the_new_one_has_mode_0660, a_file_in_the_way_is_left_alone,
	noise_from_a_peer_that_speaks_no_zmtp_disturbs_nobody)
