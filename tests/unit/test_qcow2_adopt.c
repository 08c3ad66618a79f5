/* SPDX-License-Identifier: Apache-2.0 */
/* What is believed: of the log that an earlier process left, and of the tables of the file. */
#include <sys/stat.h>

#include "tests/unit/write_fixture.h"

START_TEST(what_was_acknowledged_outlives_the_process)
{
	struct qcow2 *image = begin(3);
	uint64_t old = write_cluster(image, 4), hosts[3];
	uint32_t adopted;

	write_back(image, WRITE_BACK_DURABLE);
	for (uint64_t i = 0; i < 3; i++)
		hosts[i] = write_cluster(image, i);
	ck_assert_int_eq(qcow2_write_zeroes(image, 4, 1, false, &err), 0);
	image = die_and_come_back(image, &adopted);
	ck_assert_uint_eq(adopted, 4);
	for (uint64_t i = 0; i < 3; i++)
		ck_assert_uint_eq(look(image, i).host_offset, hosts[i]);
	ck_assert_int_eq(look(image, 4).kind, EXTENT_ZERO);
	write_back(image, WRITE_BACK_DURABLE);
	for (uint64_t i = 0; i < 3; i++)
		ck_assert_uint_eq(in_file(image, i), hosts[i] | QCOW2_COPIED);
	ck_assert_int_eq(qcow2_forget(image, &err), 0);
	ck_assert_int_eq(qcow2_trim(image, true, &err), 0);
	ck_assert_uint_eq(count_of(image, old), 0);
	end(image);
}
END_TEST

START_TEST(a_slot_that_was_being_written_when_the_process_died_fits)
{
	struct qcow2 *image = begin(3);
	uint64_t first = write_cluster(image, 0);
	struct pending_slot left = slots[0];
	uint32_t adopted;

	write_back(image, WRITE_BACK_LAZY);
	slots[0] = left; /* as if it had died before the slot was freed */
	slots[0].on_its_way = slots[0].entry;
	image = die_and_come_back(image, &adopted);
	ck_assert_uint_eq(adopted, 1);
	write_back(image, WRITE_BACK_DURABLE);
	ck_assert_uint_eq(look(image, 0).host_offset, first);
	ck_assert_int_eq(qcow2_forget(image, &err), 0);
	ck_assert_uint_eq(count_of(image, first), 1);
	end(image);
}
END_TEST

/* Two guest clusters that share one, counted twice, and an entry that cannot be: a stranger's, and none of the log's places. */
START_TEST(damage_elsewhere_does_not_keep_a_log_from_fitting)
{
	struct qcow2 *image = begin(3);
	uint64_t shared = write_cluster(image, 5), host;
	uint64_t table = image->l1[0] & QCOW2_OFFSET_MASK;
	uint32_t adopted;

	write_cluster(image, 0);
	write_back(image, WRITE_BACK_DURABLE);
	host = write_cluster(image, 1);
	tiny_image_store(image->fd, table + 6 * 8, shared);
	tiny_image_store(image->fd, table + 7 * 8, UINT64_C(1) << 56);
	image = die_and_come_back(image, &adopted);
	ck_assert_uint_eq(adopted, 1);
	ck_assert_uint_eq(look(image, 1).host_offset, host);
	end(image);
}
END_TEST

/* Somebody else had the image meanwhile: nothing of the log is believed. */
static void expect_refused(struct qcow2 *image)
{
	uint32_t adopted;

	image = die_and_come_back(image, &adopted);
	ck_assert_uint_eq(adopted, 0);
	ck_assert_uint_eq(image->pending->count, 0);
	for (uint32_t i = 0; i < 8; i++)
		ck_assert_uint_eq(slots[i].cluster, 0);
	end(image);
}

START_TEST(a_log_is_refused_when_its_place_is_used_by_somebody_else)
{
	struct qcow2 *image = begin(3);
	uint64_t host = write_cluster(image, 0), table = image->l1[0] & QCOW2_OFFSET_MASK;

	tiny_image_store(image->fd, table + 7 * 8, host | QCOW2_COPIED);
	expect_refused(image);
}
END_TEST

/* An L2 table past the end of what there is, named with a reserved bit, whose entry 3 names the cluster. */
static void store_table_with_faults(struct qcow2 *image, uint64_t l1_entry, uint64_t host)
{
	struct stat status;
	uint64_t table;

	ck_assert_int_eq(fstat(image->fd, &status), 0);
	table = ((uint64_t)status.st_size + CLUSTER - 1) / CLUSTER * CLUSTER;
	tiny_image_store(image->fd, table + 3 * 8, host | QCOW2_COPIED); /* the file ends in it */
	tiny_image_store(image->fd, l1_entry, table | UINT64_C(1) << 56);
}

/* Entries that cannot be are references all the same: other programs follow them. */
START_TEST(a_log_is_refused_when_a_damaged_entry_names_its_place)
{
	for (unsigned kind = 0; kind < 4; kind++) {
		struct qcow2 *image = begin(3);
		uint64_t host = write_cluster(image, 0), l1 = TINY_L1 * CLUSTER;
		uint64_t table = image->l1[0] & QCOW2_OFFSET_MASK;

		if (kind == 0) /* reserved bits */
			tiny_image_store(image->fd, table + 7 * 8, host | UINT64_C(1) << 56);
		else if (kind == 1) /* not to a cluster */
			tiny_image_store(image->fd, table + 7 * 8, host - 512);
		else if (kind == 2) /* as a table, with reserved bits */
			tiny_image_store(image->fd, l1 + 8, host | UINT64_C(1) << 56);
		else /* in a table that has reserved bits */
			store_table_with_faults(image, l1 + 8, host);
		expect_refused(image);
	}
}
END_TEST

START_TEST(a_log_is_refused_when_its_place_is_free)
{
	struct qcow2 *image = begin(3);
	uint64_t host = write_cluster(image, 0);

	pthread_mutex_lock(&image->lock);
	ck_assert_int_eq(qcow2_refcount_write(image, host >> BITS, 1, 0, &err), 0);
	pthread_mutex_unlock(&image->lock);
	expect_refused(image);
}
END_TEST

START_TEST(a_log_is_refused_when_its_guest_cluster_was_changed)
{
	struct qcow2 *image = begin(3);
	uint64_t table;

	write_cluster(image, 0);
	table = image->l1[0] & QCOW2_OFFSET_MASK;
	tiny_image_store(image->fd, table, QCOW2_ZERO);
	expect_refused(image);
}
END_TEST

START_TEST(a_log_with_nonsense_in_it_is_refused)
{
	static const struct pending_slot nonsense[] = {
		{.cluster = UINT64_MAX, .entry = QCOW2_ZERO},
		{.cluster = 4097, .entry = QCOW2_ZERO},
		{.cluster = 1, .entry = 0},
		{.cluster = 1, .entry = UINT64_MAX},
		{.cluster = 1, .entry = CLUSTER | QCOW2_COPIED},
		{.cluster = 1, .entry = (UINT64_C(1) << 40) | QCOW2_COPIED},
		{.cluster = 1, .entry = (5 * CLUSTER + 512) | QCOW2_COPIED},
		{.cluster = 1, .entry = QCOW2_COMPRESSED | CLUSTER},
	};

	for (size_t i = 0; i < sizeof(nonsense) / sizeof(nonsense[0]); i++) {
		struct qcow2 *image = begin(3);

		write_cluster(image, 9);
		slots[1] = nonsense[i];
		expect_refused(image);
	}
}
END_TEST

/* Entry 3 of the first table is this, as a stranger may have written it: a guest's write there. */
static int write_over(uint64_t entry, bool zeroes)
{
	struct qcow2 *image = begin(3);
	uint64_t table = image->l1[0] & QCOW2_OFFSET_MASK;
	struct write_step step;
	int r;

	qcow2_free(image);
	image = open_again();
	tiny_image_store(image->fd, table + 3 * 8, entry);
	memset(slots, 0, sizeof(slots));
	qcow2_writes_begin(image, slots, &hooks);
	r = zeroes ? qcow2_write_zeroes(image, 3, 1, false, &err)
		   : qcow2_write_begin(image, 3 * CLUSTER, CLUSTER, &step, &err);
	if (!zeroes && r == 0)
		qcow2_write_abandon(image, &step);
	end(image);
	return r;
}

START_TEST(nothing_that_a_stranger_made_an_entry_name_is_written_or_given_back)
{
	static const uint64_t strangers[] = {
		QCOW2_COMPRESSED, /* the header */
		QCOW2_COMPRESSED | (TINY_L1 * CLUSTER + 512),
		QCOW2_COMPRESSED | (UINT64_C(1) << 40),
		(1 * CLUSTER) | QCOW2_COPIED,	    /* the refcount table */
		(2 * CLUSTER) | QCOW2_COPIED,	    /* its block */
		(TINY_L2 * CLUSTER) | QCOW2_COPIED, /* the table itself */
		(5 * CLUSTER) | QCOW2_COPIED,	    /* where the file ends: the next zone */
		(99 * CLUSTER) | QCOW2_COPIED,
	};

	for (size_t i = 0; i < sizeof(strangers) / sizeof(strangers[0]); i++) {
		ck_assert_msg(write_over(strangers[i], false) == -1, "entry %zu", i);
		ck_assert_msg(write_over(strangers[i], true) == -1, "entry %zu, zeroed", i);
	}
}
END_TEST

START_TEST(a_place_behind_the_files_end_is_not_believed_when_the_file_has_grown)
{
	struct qcow2 *image = begin(3);
	uint64_t table = image->l1[0] & QCOW2_OFFSET_MASK;
	struct extent extent;

	qcow2_free(image);
	image = open_again();
	tiny_image_store(image->fd, table + 3 * 8, (7 * CLUSTER) | QCOW2_COPIED);
	memset(slots, 0, sizeof(slots));
	qcow2_writes_begin(image, slots, &hooks);
	ck_assert_int_eq(qcow2_zone_make(image, 64, ZONE_DURABLE, &err), 0);
	ck_assert_int_eq(qcow2_map(image, 3 * CLUSTER, CLUSTER, &extent, &err), -1);
	end(image);
}
END_TEST

UNIT_MAIN("qcow2_adopt", what_was_acknowledged_outlives_the_process,
	a_slot_that_was_being_written_when_the_process_died_fits,
	damage_elsewhere_does_not_keep_a_log_from_fitting,
	a_log_is_refused_when_its_place_is_used_by_somebody_else,
	a_log_is_refused_when_a_damaged_entry_names_its_place,
	a_log_is_refused_when_its_place_is_free,
	a_log_is_refused_when_its_guest_cluster_was_changed, a_log_with_nonsense_in_it_is_refused,
	nothing_that_a_stranger_made_an_entry_name_is_written_or_given_back,
	a_place_behind_the_files_end_is_not_believed_when_the_file_has_grown)
