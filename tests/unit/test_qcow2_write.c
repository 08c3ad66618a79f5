/* SPDX-License-Identifier: Apache-2.0 */
/* Guests' writes: where they go, what is pending, what a write-back leaves, and what another process takes over. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "imaged/qcow2_adopt.h"
#include "imaged/qcow2_refcount.h"
#include "imaged/qcow2_write_back.h"
#include "imaged/qcow2_zone.h"
#include "tests/unit/tiny_image.h"
#include "tests/unit/unit.h"

#define BITS	12
#define CLUSTER (UINT64_C(1) << BITS)

static struct err err;
static char path[64];
static struct pending_slot slots[PENDING_SLOTS];
static unsigned wakes, waits;

static void wake(void *owner)
{
	(void)owner;
	wakes++;
}

static void wait_for_requests(void *owner)
{
	(void)owner;
	waits++;
}

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

static const struct write_hooks hooks = {.wake = wake, .wait = wait_for_requests};

static struct qcow2 *open_again(void)
{
	struct qcow2 *image;
	int fd = open(path, O_RDWR | O_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_msg(qcow2_open(fd, "tiny", &image, &err) == 0, "%s", err.text);
	ck_assert_msg(qcow2_make_writable(image, &err) == 0, "%s", err.text);
	return image;
}

/* A disk of 16 MiB with one L2 table, which names nothing. */
static struct qcow2 *begin(uint32_t version)
{
	const struct tiny_image tiny = {
		.version = version, .cluster_bits = BITS, .disk_size = 16 << 20, .tables = 1};
	struct qcow2 *image;
	int fd;

	snprintf(path, sizeof(path), "/tmp/sluice-write-%d.qcow2", (int)getpid());
	fd = tiny_image_make(path, &tiny);
	for (uint64_t i = 0; i < TINY_L2 + tiny.tables; i++) {
		uint16_t one = htobe16(1);

		ck_assert_int_eq(pwrite_full(fd, &one, 2, tiny_cluster(&tiny, 2) + i * 2), 0);
	}
	tiny_image_store(fd, tiny_cluster(&tiny, 1), tiny_cluster(&tiny, 2));
	close(fd);
	memset(slots, 0, sizeof(slots));
	wakes = waits = 0;
	image = open_again();
	qcow2_writes_begin(image, slots, &hooks);
	return image;
}

static void end(struct qcow2 *image)
{
	qcow2_free(image);
	unlink(path);
}

/* What the process would leave if it died now: the file and the slots. */
static struct qcow2 *die_and_come_back(struct qcow2 *image, uint32_t *ret_adopted)
{
	struct qcow2 *next;
	struct err why = {0};

	qcow2_free(image);
	next = open_again();
	ck_assert_msg(qcow2_adopt(next, slots, ret_adopted, &why, &err) == 0, "%s", err.text);
	qcow2_writes_begin(next, slots, &hooks);
	return next;
}

/* Writes one cluster, whichever way it goes; where its bytes are. */
static uint64_t write_cluster(struct qcow2 *image, uint64_t cluster)
{
	struct cluster_run run = {0};
	struct write_step step;
	unsigned count;

	ck_assert_msg(qcow2_write_begin(image, cluster * CLUSTER, CLUSTER, &step, &err) == 0, "%s",
		err.text);
	ck_assert_uint_eq(step.length, CLUSTER);
	if (step.is_in_place) {
		qcow2_write_note(image);
		return step.host;
	}
	run = (struct cluster_run){step.reused, CLUSTER};
	if (!step.reused)
		ck_assert_int_eq(qcow2_reserve(image, CLUSTER, &run, 1, &count, &err), 0);
	ck_assert_int_eq(qcow2_write_end(image, &step, &run, 1, &err), 0);
	return run.offset;
}

static void write_back(struct qcow2 *image, enum write_back how)
{
	ck_assert_msg(qcow2_write_back(image, how, &err) == 0, "%s", err.text);
}

static uint64_t in_file(struct qcow2 *image, uint64_t cluster)
{
	uint64_t entry, table;

	ck_assert_int_eq(pread_full(image->fd, &table, 8, image->header.l1_offset), 0);
	table = be64toh(table) & QCOW2_OFFSET_MASK;
	ck_assert_int_eq(pread_full(image->fd, &entry, 8, table + cluster * 8), 0);
	return be64toh(entry);
}

static uint64_t count_of(struct qcow2 *image, uint64_t host)
{
	uint64_t count;

	pthread_mutex_lock(&image->lock);
	ck_assert_int_eq(qcow2_refcount_read(image, host >> BITS, &count, &err), 0);
	pthread_mutex_unlock(&image->lock);
	return count;
}

static struct extent look(struct qcow2 *image, uint64_t cluster)
{
	struct extent extent;

	ck_assert_int_eq(qcow2_map(image, cluster * CLUSTER, CLUSTER, &extent, &err), 0);
	return extent;
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

START_TEST(fresh_clusters_are_for_guests_alone_until_a_flush)
{
	struct qcow2 *image = begin(3);
	struct cluster_run run;
	unsigned count;
	uint64_t fresh;

	/* The first zone makes the hint name what comes behind it: the next needs no flush. */
	ck_assert_int_eq(qcow2_reserve_fresh(image, CLUSTER, &run, 1, &count, &err), 0);
	ck_assert_uint_eq(image->zones->fresh.total, 0);
	ck_assert_int_eq(qcow2_zone_make(image, 600, ZONE_FRESH, &err), 0);
	fresh = image->zones->fresh.total;
	ck_assert_uint_ge(fresh, 600);
	ck_assert_uint_eq(count_of(image, image->zones->fresh.runs[0].first << BITS), 1);
	ck_assert_int_eq(qcow2_reserve(image, CLUSTER, &run, 1, &count, &err), 0);
	ck_assert(!run_set_overlaps(&image->zones->fresh, run.offset >> BITS, 1));
	ck_assert_int_eq(qcow2_flush(image, &err), 0);
	ck_assert_uint_eq(image->zones->fresh.total, 0);
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
	fresh_clusters_are_for_guests_alone_until_a_flush, copy_on_read_never_wins,
	what_was_acknowledged_outlives_the_process,
	a_slot_that_was_being_written_when_the_process_died_fits,
	a_log_is_refused_when_its_place_is_used_by_somebody_else,
	a_log_is_refused_when_its_place_is_free,
	a_log_is_refused_when_its_guest_cluster_was_changed, a_log_with_nonsense_in_it_is_refused,
	an_entry_reaches_the_file_between_two_flushes,
	what_the_file_named_is_forgotten_behind_the_second_flush_also_of_a_lazy_one,
	what_a_flush_promised_is_in_the_file_although_it_was_replaced_meanwhile,
	nothing_that_a_stranger_made_an_entry_name_is_written_or_given_back,
	a_place_behind_the_files_end_is_not_believed_when_the_file_has_grown,
	when_the_pending_map_is_full_it_is_written_back)
