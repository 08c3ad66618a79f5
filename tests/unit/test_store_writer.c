/* SPDX-License-Identifier: Apache-2.0 */
/* The committing thread. */
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "broker/store_writer.h"
#include "common/clock.h"
#include "tests/unit/store_fixture.h"
#include "tests/unit/unit.h"

static struct store *store;
static struct store_writer *writer;

static void begin(uint64_t map_bytes, uint64_t map_bytes_max)
{
	struct err err;

	make_folder();
	store = open_store_sized(map_bytes, map_bytes_max);
	writer = store_writer_new(store, &err);
	ck_assert_ptr_nonnull(writer);
}

static void end(void)
{
	store_writer_free(writer);
	store_close(store);
	remove_folder();
}

static uint64_t submit_put(unsigned number, size_t bytes)
{
	struct store_batch *batch = store_batch_new();
	char key[32];
	char *text = malloc(bytes + 1);

	memset(text, 't', bytes);
	text[bytes] = 0;
	snprintf(key, sizeof(key), "%08u", number);
	add_change(batch, EFFECT_STORE_PUT, STORE_JOBS, key, text);
	free(text);
	return store_writer_submit(writer, batch);
}

/* Waits on the descriptor, as the loop does. */
static void wait_for_ticket(uint64_t ticket)
{
	uint64_t until = clock_monotonic_ms() + 20000;
	struct err err;

	while (store_writer_committed(writer, &err) < (int64_t)ticket) {
		struct pollfd poll_fd = {.fd = store_writer_fd(writer), .events = POLLIN};

		ck_assert_int_lt(clock_monotonic_ms(), until);
		poll(&poll_fd, 1, 1000);
	}
}

START_TEST(each_batch_becomes_durable_in_order_and_the_owner_is_woken)
{
	begin(0, 0);

	ck_assert_uint_eq(submit_put(1, 10), 1);
	wait_for_ticket(1);
	ck_assert_uint_eq(submit_put(2, 10), 2);
	wait_for_ticket(2);

	ck_assert_uint_eq(count_records(store, STORE_JOBS), 2);
	end();
}
END_TEST

static atomic_uint commits;
static atomic_bool is_held;

static void hold_commit(void)
{
	atomic_fetch_add(&commits, 1);
	while (atomic_load(&is_held))
		sched_yield();
}

START_TEST(what_waits_is_committed_together)
{
	uint64_t last = 0;
	while_flushing = hold_commit;
	begin(0, 0);

	atomic_store(&commits, 0);
	atomic_store(&is_held, true);
	submit_put(0, 100);
	while (atomic_load(&commits) == 0)
		sched_yield();
	for (unsigned i = 1; i < 20000; i++)
		last = submit_put(i, 100);
	atomic_store(&is_held, false);
	ck_assert(store_writer_flush(writer, 20000));

	wait_for_ticket(last);
	ck_assert_uint_eq(count_records(store, STORE_JOBS), 20000);
	ck_assert_uint_eq(store_writer_waiting_bytes(writer), 0);
	ck_assert_uint_eq(atomic_load(&commits), 2);
	end();
}
END_TEST

START_TEST(a_full_store_goes_on_with_its_reserve_and_gets_it_back)
{
	unsigned count = 0;
	struct store_batch *batch;
	begin(1 << 20, 2 << 20);

	while (!store_writer_is_low(writer))
		wait_for_ticket(submit_put(count++, 4000));
	batch = store_batch_new();
	add_change(batch, EFFECT_STORE_DELETE_PREFIX, STORE_JOBS, "0", "");
	wait_for_ticket(store_writer_submit(writer, batch));

	ck_assert_uint_gt(count, 50);
	ck_assert_uint_eq(count_records(store, STORE_JOBS), 0);
	end();
}
END_TEST

START_TEST(without_any_room_changes_wait_and_a_stop_does_not)
{
	struct err err;
	uint64_t begun, took;
	begin(1 << 20, 1 << 20);

	for (unsigned i = 0; i < 2000; i++)
		submit_put(i, 4000);
	ck_assert(!store_writer_flush(writer, 1500));
	ck_assert_int_lt(store_writer_committed(writer, &err), 2000);
	ck_assert_int_ge(store_writer_committed(writer, &err), 0);

	/* whoever submits ends a pause: now another one begins, and has grown to 2 s */
	submit_put(2000, 4000);
	ck_assert(!store_writer_flush(writer, 100));
	begun = clock_monotonic_ms();
	store_writer_free(writer);
	took = clock_monotonic_ms() - begun;
	writer = NULL;
	end();
	ck_assert_uint_lt(took, 1500);
}
END_TEST

UNIT_MAIN("store_writer", each_batch_becomes_durable_in_order_and_the_owner_is_woken,
	what_waits_is_committed_together, a_full_store_goes_on_with_its_reserve_and_gets_it_back,
	without_any_room_changes_wait_and_a_stop_does_not)
