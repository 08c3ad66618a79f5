/* SPDX-License-Identifier: Apache-2.0 */
#include <poll.h>

#include "clients/watch.h"
#include "common/clock.h"
#include "tests/unit/folder.h"
#include "tests/unit/unit.h"

#define PATIENCE_MS 5000

static struct mq_socket *make_socket(struct mq *mq, enum mq_kind kind)
{
	const struct mq_options options = {.only_when_connected = true};
	struct err err;
	struct mq_socket *socket = mq_socket_new(mq, kind, &options, &err);

	ck_assert_msg(socket, "%s", err.text);
	return socket;
}

START_TEST(a_wait_for_a_connection_sees_one_that_was_noticed_before_it)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	const char *endpoint = folder_endpoint(&folder, "s");
	struct err err;
	struct mq *mq = mq_new(&err);
	struct mq_socket *router = make_socket(mq, MQ_ROUTER), *dealer = make_socket(mq, MQ_DEALER);
	uint64_t deadline_ms = clock_monotonic_ms() + PATIENCE_MS;

	ck_assert_int_eq(mq_connect(dealer, endpoint, &err), 0);
	ck_assert(!mq_writable(dealer));
	ck_assert_int_eq(mq_bind(router, endpoint, &err), 0);
	while (!mq_writable(dealer) && clock_monotonic_ms() < deadline_ms)
		poll(NULL, 0, 5);
	ck_assert_int_eq(watch_wait_writable(NULL, dealer, deadline_ms), WATCH_MESSAGE);

	mq_socket_free(dealer);
	mq_socket_free(router);
	mq_free(mq);
}
END_TEST

UNIT_MAIN("watch", a_wait_for_a_connection_sees_one_that_was_noticed_before_it)
