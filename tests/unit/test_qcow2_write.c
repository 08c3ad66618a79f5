/* SPDX-License-Identifier: Apache-2.0 */
/* Guests' writes: where they go, what is pending, and what a write-back leaves. */
#include <errno.h>

#include "tests/unit/write_fixture.h"

/* What others do while somebody flushes, once. */
static void (*during_flush)(struct qcow2 *image);
static struct qcow2 *flushed_image;

int fdatasync(int fd)
{
	void (*happens)(struct qcow2 * image) = during_flush;

	during_flush = NULL;
	if (happens)
		happens(flushed_image);
	return fsync(fd);
}

START_TEST(a_new_cluster_is_in_effect_before_the_file_names_it)
{
	struct qcow2 *image = begin(3);
	uint64_t host = write_cluster(image, 5);

	ck_assert_int_eq(look(image, 5).kind, EXTENT_DATA);
	ck_assert_uint_eq(look(image, 5).host_offset, host);
	ck_assert_uint_eq(in_file(image, 5), 0);
	ck_assert_uint_eq(write_cluster(image, 5), host); /* in place by now */
	write_back(image, WRITE_BACK_DURABLE);
	ck_assert_uint_eq(in_file(image, 5), host | QCOW2_COPIED);
	ck_assert_uint_eq(image->pending->count, 0);
	ck_assert_uint_eq(look(image, 5).host_offset, host);
	end(image);
}
END_TEST

START_TEST(where_there_was_no_table_one_is_made_with_the_entries)
{
	struct qcow2 *image = begin(3);
	uint64_t cluster = 2 * CLUSTER / 8 + 3, host = write_cluster(image, cluster);

	ck_assert_uint_eq(image->l1[2], 0);
	ck_assert_uint_eq(look(image, cluster).host_offset, host);
	ck_assert_int_eq(look(image, cluster + 1).kind, EXTENT_ABSENT);
	write_back(image, WRITE_BACK_LAZY);
	ck_assert_uint_ne(image->l1[2], 0);
	ck_assert_uint_eq(look(image, cluster).host_offset, host);
	ck_assert_uint_eq(image->l1[1], 0);
	end(image);
}
END_TEST

START_TEST(a_job_maps_nothing_over_what_is_pending_or_claimed)
{
	struct qcow2 *image = begin(3);
	uint64_t host = write_cluster(image, 1), mapped;
	struct write_step step;
	struct cluster_run run;
	unsigned char bitmap[1];
	unsigned count;

	ck_assert_int_eq(qcow2_write_begin(image, 2 * CLUSTER, 10, &step, &err), 0);
	ck_assert(!step.is_in_place);
	ck_assert_int_eq(qcow2_reserve(image, 4 * CLUSTER, &run, 1, &count, &err), 0);
	ck_assert_int_eq(qcow2_prepare_tables(image, 0, 4 * CLUSTER, &err), 0);
	ck_assert_int_eq(qcow2_map_clusters(image, 0, 4 * CLUSTER, run.offset, NULL, NULL, &mapped,
				 bitmap, &err),
		0);
	ck_assert_uint_eq(bitmap[0], 0x09);
	qcow2_write_abandon(image, &step);
	ck_assert_uint_eq(look(image, 1).host_offset, host);
	ck_assert_int_eq(look(image, 2).kind, EXTENT_ABSENT);
	end(image);
}
END_TEST

START_TEST(a_zeroed_cluster_is_given_back_only_when_the_file_has_forgotten_it)
{
	struct qcow2 *image = begin(3);
	uint64_t host = write_cluster(image, 1);

	write_back(image, WRITE_BACK_DURABLE);
	ck_assert_int_eq(qcow2_write_zeroes(image, 1, 1, false, &err), 0);
	ck_assert_int_eq(look(image, 1).kind, EXTENT_ZERO);
	ck_assert_uint_eq(in_file(image, 1), host | QCOW2_COPIED);
	ck_assert_int_eq(qcow2_forget(image, &err), 0);
	ck_assert_uint_eq(count_of(image, host), 1);
	write_back(image, WRITE_BACK_LAZY);
	ck_assert_uint_eq(in_file(image, 1), QCOW2_ZERO);
	ck_assert_uint_eq(count_of(image, host), 1);
	ck_assert_uint_eq(waits, 0);
	ck_assert_int_eq(qcow2_forget(image, &err), 0);
	ck_assert_uint_eq(waits, 1);
	/* Counted still, and free for the next. */
	ck_assert_uint_eq(count_of(image, host), 1);
	ck_assert(run_set_overlaps(&image->zones->fresh, host >> BITS, 1));
	ck_assert_int_eq(qcow2_trim(image, true, &err), 0);
	ck_assert_uint_eq(count_of(image, host), 0);
	end(image);
}
END_TEST

START_TEST(a_zeroed_cluster_that_keeps_its_space_is_written_in_its_old_place)
{
	struct qcow2 *image = begin(3);
	uint64_t host = write_cluster(image, 1);

	ck_assert_int_eq(qcow2_write_zeroes(image, 1, 1, true, &err), 0);
	ck_assert_int_eq(look(image, 1).kind, EXTENT_ZERO);
	write_back(image, WRITE_BACK_DURABLE);
	ck_assert_uint_eq(in_file(image, 1), host | QCOW2_COPIED | QCOW2_ZERO);
	ck_assert_uint_eq(write_cluster(image, 1), host);
	ck_assert_int_eq(look(image, 1).kind, EXTENT_DATA);
	write_back(image, WRITE_BACK_DURABLE);
	ck_assert_uint_eq(in_file(image, 1), host | QCOW2_COPIED);
	ck_assert_uint_eq(image->writes->forgotten.count, 0);
	end(image);
}
END_TEST

START_TEST(a_cluster_that_the_file_never_named_is_used_again_after_a_grace_period)
{
	struct qcow2 *image = begin(3);
	uint64_t host = write_cluster(image, 1), free_before;

	ck_assert_int_eq(qcow2_write_zeroes(image, 1, 1, false, &err), 0);
	ck_assert_uint_ge(wakes, 1);
	free_before = image->zones->free.total + image->zones->fresh.total;
	write_back(image, WRITE_BACK_DURABLE);
	ck_assert_uint_eq(in_file(image, 1), QCOW2_ZERO);
	ck_assert_uint_eq(image->zones->free.total + image->zones->fresh.total, free_before);
	ck_assert_int_eq(qcow2_forget(image, &err), 0);
	ck_assert_uint_eq(waits, 1);
	ck_assert_uint_eq(count_of(image, host), 1);
	ck_assert_uint_eq(image->zones->free.total + image->zones->fresh.total, free_before + 1);
	end(image);
}
END_TEST

START_TEST(copy_on_read_never_wins)
{
	struct qcow2 *image = begin(3);
	struct cluster_run run;
	unsigned count;
	struct write_step step;

	ck_assert_int_eq(qcow2_reserve(image, 4 * CLUSTER, &run, 1, &count, &err), 0);
	ck_assert(qcow2_write_keep(image, 0, run.offset));
	ck_assert_uint_eq(look(image, 0).host_offset, run.offset);
	ck_assert(!qcow2_write_keep(image, 0, run.offset + CLUSTER));
	ck_assert_int_eq(qcow2_write_begin(image, CLUSTER, 1, &step, &err), 0);
	ck_assert(!qcow2_write_keep(image, 1, run.offset + CLUSTER));
	qcow2_write_abandon(image, &step);
	ck_assert_int_eq(qcow2_write_zeroes(image, 2, 1, false, &err), 0);
	ck_assert(!qcow2_write_keep(image, 2, run.offset + CLUSTER));
	ck_assert(qcow2_write_keep(image, 1, run.offset + CLUSTER));
	end(image);
}
END_TEST

/* What the file named for cluster 1, and how often its place was counted, at each flush of a write-back. */
static uint64_t seen[4], counted[4], watched_host;
static unsigned flush_count;

static void look_at_flush(struct qcow2 *image)
{
	seen[flush_count] = in_file(image, 1);
	counted[flush_count++] = count_of(image, watched_host);
	during_flush = look_at_flush;
}

static void watch_flushes(struct qcow2 *image, uint64_t host)
{
	flushed_image = image;
	watched_host = host;
	flush_count = 0;
	during_flush = look_at_flush;
}

START_TEST(an_entry_reaches_the_file_between_two_flushes)
{
	struct qcow2 *image = begin(3);
	uint64_t host = write_cluster(image, 1);

	watch_flushes(image, host);
	write_back(image, WRITE_BACK_DURABLE);
	ck_assert_uint_eq(flush_count, 2);
	ck_assert_uint_eq(seen[0], 0);
	ck_assert_uint_eq(seen[1], host | QCOW2_COPIED);
	write_back(image, WRITE_BACK_DURABLE); /* for nothing */
	ck_assert_uint_eq(flush_count, 2);
	ck_assert_uint_eq(write_cluster(image, 1), host); /* in place */
	write_back(image, WRITE_BACK_DURABLE);
	ck_assert_uint_eq(flush_count, 3);
	end(image);
}
END_TEST

START_TEST(what_the_file_named_is_forgotten_behind_the_second_flush_also_of_a_lazy_one)
{
	struct qcow2 *image = begin(3);
	uint64_t host = write_cluster(image, 1);

	write_back(image, WRITE_BACK_DURABLE);
	ck_assert_int_eq(qcow2_write_zeroes(image, 1, 1, false, &err), 0);
	watch_flushes(image, host);
	write_back(image, WRITE_BACK_LAZY);
	ck_assert_uint_eq(flush_count, 2);
	ck_assert_uint_eq(seen[0], host | QCOW2_COPIED);
	ck_assert_uint_eq(seen[1], QCOW2_ZERO);
	ck_assert_uint_eq(counted[1], 1);
	ck_assert_uint_eq(image->writes->forgotten.count, 1);
	during_flush = NULL;
	end(image);
}
END_TEST

/* Entries that are in the way of a write-back already: zeroes become a cluster, a cluster zeroes, and another cluster. */
static void replace_all(struct qcow2 *image)
{
	write_cluster(image, 1);
	ck_assert_int_eq(qcow2_write_zeroes(image, 2, 2, false, &err), 0);
	write_cluster(image, 3);
}

START_TEST(what_a_flush_promised_is_in_the_file_although_it_was_replaced_meanwhile)
{
	struct qcow2 *image = begin(3);
	uint64_t old = write_cluster(image, 1), hosts[3];
	uint32_t adopted;

	write_back(image, WRITE_BACK_DURABLE);
	ck_assert_int_eq(qcow2_write_zeroes(image, 1, 1, false, &err), 0);
	write_cluster(image, 2);
	write_cluster(image, 3);
	flushed_image = image;
	during_flush = replace_all;
	write_back(image, WRITE_BACK_DURABLE);
	/* The newest bytes may not be durable: the file has what came before them. */
	for (uint64_t i = 1; i < 4; i++)
		ck_assert_uint_eq(in_file(image, i), QCOW2_ZERO);
	ck_assert_uint_eq(image->pending->count, 2);
	hosts[0] = look(image, 1).host_offset;
	hosts[2] = look(image, 3).host_offset;
	ck_assert_int_eq(look(image, 2).kind, EXTENT_ZERO);
	ck_assert_int_eq(qcow2_forget(image, &err), 0);
	ck_assert(run_set_overlaps(&image->zones->fresh, old >> BITS, 1));
	image = die_and_come_back(image, &adopted);
	ck_assert_uint_eq(adopted, 2);
	write_back(image, WRITE_BACK_DURABLE);
	ck_assert_uint_eq(in_file(image, 1), hosts[0] | QCOW2_COPIED);
	ck_assert_uint_eq(in_file(image, 3), hosts[2] | QCOW2_COPIED);
	end(image);
}
END_TEST
/* Its bytes may be in the file by then; but no log names them, and who opens the image anew knows nothing of them. */
START_TEST(a_write_that_ends_when_the_image_has_failed_has_failed)
{
	struct qcow2 *image = begin(3);
	struct cluster_run run = {0};
	struct write_step step;
	unsigned count;

	ck_assert_int_eq(qcow2_write_begin(image, 0, CLUSTER, &step, &err), 0);
	ck_assert_int_eq(qcow2_reserve(image, CLUSTER, &run, 1, &count, &err), 0);
	pthread_mutex_lock(&image->lock);
	qcow2_mark_failed(image);
	pthread_mutex_unlock(&image->lock);
	ck_assert_int_eq(qcow2_write_end(image, &step, &run, 1, &err), -1);
	ck_assert_int_eq(err.number, EIO);
	ck_assert_uint_eq(image->pending->count, 0);
	end(image);
}
END_TEST

START_TEST(when_the_pending_map_is_full_it_is_written_back)
{
	struct qcow2 *image = begin(3);

	image->pending->promised = PENDING_SLOTS - 10; /* by other writers */
	ck_assert_int_eq(qcow2_write_zeroes(image, 0, 100, false, &err), 0);
	ck_assert_uint_le(image->pending->count, 10);
	for (uint64_t i = 0; i < 100; i++)
		ck_assert_int_eq(look(image, i).kind, EXTENT_ZERO);
	for (uint64_t i = 100; i < 125; i++)
		write_cluster(image, i);
	ck_assert_uint_le(image->pending->count, 10);
	end(image);
}
END_TEST

UNIT_MAIN("qcow2_write", a_new_cluster_is_in_effect_before_the_file_names_it,
	where_there_was_no_table_one_is_made_with_the_entries,
	a_job_maps_nothing_over_what_is_pending_or_claimed,
	a_zeroed_cluster_is_given_back_only_when_the_file_has_forgotten_it,
	a_zeroed_cluster_that_keeps_its_space_is_written_in_its_old_place,
	a_cluster_that_the_file_never_named_is_used_again_after_a_grace_period,
	copy_on_read_never_wins, an_entry_reaches_the_file_between_two_flushes,
	what_the_file_named_is_forgotten_behind_the_second_flush_also_of_a_lazy_one,
	what_a_flush_promised_is_in_the_file_although_it_was_replaced_meanwhile,
	a_write_that_ends_when_the_image_has_failed_has_failed,
	when_the_pending_map_is_full_it_is_written_back)
