/* SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "imaged/live_chain.h"
#include "tests/unit/fake_chain.h"
#include "tests/unit/unit.h"

START_TEST(layers_go_and_the_rest_moves_up)
{
	struct live_chain live;
	struct chain_view *view;

	live_chain_init(&live, FAKE_CHAIN("..", "D", "D", "DD"));
	live_chain_drop(&live, 3, "new-name");
	view = live_chain_enter(&live);
	ck_assert_uint_eq(view->chain->count, 2);
	ck_assert_str_eq(view->chain->layers[1].name, "new-name");
	ck_assert_uint_eq(view->chain->layers[1].inode, 3);
	live_chain_leave(&live, view);
	live_chain_drop(&live, 2, "");
	ck_assert_uint_eq(live.current->chain->count, 1);
	live_chain_done(&live);
}
END_TEST

struct reader {
	struct live_chain *live;
	atomic_bool is_over;
	atomic_ulong rounds;
	uint64_t wrong;
};

/* Unit 1 of layer "D." is absent, then the kept layer's data: the guest must see the same all the time. */
static void *read_on(void *owner)
{
	struct reader *reader = owner;

	while (!atomic_load(&reader->is_over)) {
		struct chain_view *view = live_chain_enter(reader->live);
		struct extent extent;
		struct err failure;

		if (chain_map(view->chain, 0, view->chain->count, UNIT, UNIT, &extent, &failure) <
				0 ||
			extent.kind != EXTENT_DATA)
			reader->wrong++;
		live_chain_leave(reader->live, view);
		atomic_fetch_add(&reader->rounds, 1);
	}
	return NULL;
}

START_TEST(readers_go_on_while_layers_are_dropped)
{
	struct live_chain live;
	struct reader reader = {.live = &live};
	pthread_t threads[3];

	live_chain_init(&live, FAKE_CHAIN("D.", "D.", "D.", "D.", "D.", "D.", "DD"));
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, read_on, &reader), 0);
	for (int i = 0; i < 5; i++) {
		unsigned long before = atomic_load(&reader.rounds);

		live_chain_drop(&live, 2, "x");
		while (atomic_load(&reader.rounds) < before + 100)
			;
	}
	atomic_store(&reader.is_over, true);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	ck_assert_uint_eq(reader.wrong, 0);
	ck_assert_uint_eq(live.current->chain->count, 2);
	live_chain_done(&live);
}
END_TEST

UNIT_MAIN("live_chain", layers_go_and_the_rest_moves_up, readers_go_on_while_layers_are_dropped)
