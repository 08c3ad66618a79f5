/* SPDX-License-Identifier: Apache-2.0 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "imaged/qcow2_pending.h"
#include "tests/unit/unit.h"

#define BITS   12
#define TABLES 1024

static struct pending_slot slots[PENDING_SLOTS];

static void put(struct pending *pending, uint64_t cluster, uint64_t entry)
{
	ck_assert_uint_eq(pending_promise(pending, 1), 1);
	pending_put(pending, cluster, entry, 7);
}

/* The file has it. */
static void drop(struct pending *pending, uint64_t cluster)
{
	struct pending_slot *slot = pending_find(pending, cluster);

	pending_in_file(pending, slot, slot->entry);
}

START_TEST(what_is_put_is_found_until_the_file_has_it)
{
	struct pending *pending = pending_new(slots, BITS, TABLES);

	for (uint64_t cluster = 0; cluster < 5000; cluster++)
		put(pending, cluster * 3, cluster + 1);
	for (uint64_t cluster = 0; cluster < 5000; cluster += 2)
		drop(pending, cluster * 3);
	for (uint64_t cluster = 0; cluster < 5000; cluster++) {
		const struct pending_slot *slot = pending_find(pending, cluster * 3);

		ck_assert_int_eq(slot != NULL, cluster % 2);
		if (slot)
			ck_assert_uint_eq(slot->entry, cluster + 1);
		ck_assert_ptr_null(pending_find(pending, cluster * 3 + 1));
	}
	ck_assert_uint_eq(pending->count, 2500);
	pending_free(pending);
}
END_TEST

START_TEST(tables_know_how_many_are_theirs)
{
	struct pending *pending = pending_new(slots, BITS, TABLES);

	ck_assert_uint_eq(pending_in_table(NULL, 0), 0);
	put(pending, 511, 1);
	put(pending, 512, 1);
	put(pending, 513, 1);
	put(pending, 513, 2);
	ck_assert_uint_eq(pending_in_table(pending, 0), 1);
	ck_assert_uint_eq(pending_in_table(pending, 1), 2);
	drop(pending, 512);
	ck_assert_uint_eq(pending_in_table(pending, 1), 1);
	pending_free(pending);
}
END_TEST

START_TEST(the_same_entry_put_again_is_another_version)
{
	struct pending *pending = pending_new(slots, BITS, TABLES);
	const struct pending_slot *slot;
	uint32_t version;

	put(pending, 5, 4096);
	slot = pending_find(pending, 5);
	version = pending_version(pending, slot);
	put(pending, 5, 1);
	put(pending, 5, 4096);
	ck_assert_ptr_eq(pending_find(pending, 5), slot);
	ck_assert_uint_ne(pending_version(pending, slot), version);
	ck_assert_uint_eq(slot->in_file, 7);
	pending_free(pending);
}
END_TEST

/* Entries of a cluster, each unlike those of any other. */
static uint64_t entry_of(uint64_t cluster, unsigned which)
{
	return cluster * 4096 + which;
}

static void use_one_slot(struct pending *pending)
{
	struct pending_slot *slot;

	for (uint64_t cluster = 1; cluster < 4; cluster++) {
		pending_put(pending, cluster, entry_of(cluster, 1), entry_of(cluster, 0));
		pending_put(pending, cluster, entry_of(cluster, 2), 0);
		slot = pending_find(pending, cluster);
		pending_in_file(pending, slot, entry_of(cluster, 1));
		pending_in_file(pending, slot, entry_of(cluster, 2));
	}
}

static bool can_be_believed(const struct pending_slot *slot)
{
	uint64_t cluster = slot->cluster - 1;

	return slot->cluster == 0 ||
	       ((slot->entry == entry_of(cluster, 1) || slot->entry == entry_of(cluster, 2)) &&
		       (slot->in_file == entry_of(cluster, 0) ||
			       slot->in_file == entry_of(cluster, 1)) &&
		       slot->on_its_way == entry_of(cluster, 0));
}

/* A process is led through it by single instructions, and might die after each. */
START_TEST(a_slot_can_be_believed_at_any_moment)
{
	size_t bytes = PENDING_SLOTS * sizeof(struct pending_slot);
	struct pending_slot *shared =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct pending *pending;
	uint64_t last = 0;
	unsigned filled = 0, freed = 0;
	pid_t child;
	int status;

	ck_assert_ptr_ne(shared, MAP_FAILED);
	pending = pending_new(shared, BITS, TABLES);
	ck_assert_uint_eq(pending_promise(pending, 6), 6);
	child = fork();
	if (child == 0) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
			_exit(1);
		raise(SIGSTOP);
		use_one_slot(pending);
		_exit(0);
	}
	for (int expected = SIGSTOP; waitpid(child, &status, 0) == child && WIFSTOPPED(status);
		expected = SIGTRAP) {
		ck_assert_int_eq(WSTOPSIG(status), expected);
		filled += last == 0 && shared->cluster != 0;
		freed += last != 0 && shared->cluster == 0;
		last = shared->cluster;
		ck_assert_msg(can_be_believed(shared), "cluster %lu: entry %lu, in the file %lu",
			last, shared->entry, shared->in_file);
		ck_assert_int_eq(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL), 0);
	}
	ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	ck_assert_uint_eq(filled, 3);
	ck_assert_uint_eq(freed, 3);
	pending_free(pending);
	munmap(shared, bytes);
}
END_TEST

START_TEST(no_more_is_promised_than_there_is)
{
	struct pending *pending = pending_new(slots, BITS, TABLES);

	ck_assert_uint_eq(pending_promise(pending, PENDING_SLOTS - 2), PENDING_SLOTS - 2);
	put(pending, 1, 1);
	ck_assert_uint_eq(pending_promise(pending, 5), 1);
	ck_assert_uint_eq(pending_promise(pending, 5), 0);
	pending_put(pending, 1, 2, 0); /* has a slot: gives its promise back */
	ck_assert_uint_eq(pending_promise(pending, 5), 1);
	pending_unpromise(pending, PENDING_SLOTS - 2);
	pending_free(pending);
}
END_TEST

START_TEST(what_an_earlier_process_left_is_there)
{
	struct pending *pending = pending_new(slots, BITS, TABLES);

	for (uint64_t cluster = 100; cluster < 200; cluster++)
		put(pending, cluster, cluster);
	drop(pending, 150);
	pending_free(pending);
	pending = pending_new(slots, BITS, TABLES);
	ck_assert_uint_eq(pending->count, 99);
	ck_assert_ptr_null(pending_find(pending, 150));
	ck_assert_uint_eq(pending_find(pending, 199)->entry, 199);
	ck_assert_uint_eq(pending_promise(pending, PENDING_SLOTS), PENDING_SLOTS - 99);
	pending_free(pending);
}
END_TEST

UNIT_MAIN("qcow2_pending", what_is_put_is_found_until_the_file_has_it,
	tables_know_how_many_are_theirs, the_same_entry_put_again_is_another_version,
	a_slot_can_be_believed_at_any_moment, no_more_is_promised_than_there_is,
	what_an_earlier_process_left_is_there)
