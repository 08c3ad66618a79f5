/* SPDX-License-Identifier: Apache-2.0 */
/* A disk of 16 MiB with clusters of 4 KiB and one empty L2 table, that guests write to; its slots are the test's, so that they outlive
 * the image as they would outlive a process. */
#ifndef SLUICE_TESTS_UNIT_WRITE_FIXTURE_H
#define SLUICE_TESTS_UNIT_WRITE_FIXTURE_H

#include <stdio.h>
#include <string.h>

#include "imaged/qcow2_adopt.h"
#include "imaged/qcow2_refcount.h"
#include "imaged/qcow2_write_back.h"
#include "imaged/qcow2_zone.h"
#include "common/attributes.h"
#include "tests/unit/temporary.h"
#include "tests/unit/tiny_image.h"
#include "tests/unit/unit.h"

#define BITS	12
#define CLUSTER (UINT64_C(1) << BITS)

static struct err err;
static char path[64];
static struct pending_slot slots[PENDING_SLOTS];
static unsigned wakes, waits;

static UNUSED void wake(void *owner UNUSED)
{
	wakes++;
}

static UNUSED void wait_for_requests(void *owner UNUSED)
{
	waits++;
}

static const struct write_hooks hooks = {.wake = wake, .wait = wait_for_requests};

static UNUSED struct qcow2 *open_again(void)
{
	struct qcow2 *image;
	int fd = open(path, O_RDWR | O_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_msg(qcow2_open(fd, "tiny", &image, &err) == 0, "%s", err.text);
	ck_assert_msg(qcow2_make_writable(image, &err) == 0, "%s", err.text);
	return image;
}

/* What it has is counted, and guests may write. */
static UNUSED struct qcow2 *begin_tiny(const struct tiny_image *tiny)
{
	struct qcow2 *image;
	int fd;

	snprintf(path, sizeof(path), "%s/sluice-write-%d.qcow2", temporary_place(), (int)getpid());
	fd = tiny_image_make(path, tiny);
	for (uint64_t i = 0; i < TINY_L2 + tiny->tables; i++)
		ck_assert_int_eq(pwrite_full(fd, "\0\1", 2, tiny_cluster(tiny, 2) + i * 2), 0);
	tiny_image_store(fd, tiny_cluster(tiny, 1), tiny_cluster(tiny, 2));
	close(fd);
	memset(slots, 0, sizeof(slots));
	wakes = waits = 0;
	image = open_again();
	qcow2_writes_begin(image, slots, &hooks);
	return image;
}

/* A disk of 16 MiB with one L2 table, which names nothing. */
static UNUSED struct qcow2 *begin(uint32_t version)
{
	return begin_tiny(&(struct tiny_image){
		.version = version, .cluster_bits = BITS, .disk_size = 16 << 20, .tables = 1});
}

static UNUSED void end(struct qcow2 *image)
{
	qcow2_free(image);
	unlink(path);
}

/* What the process would leave if it died now: the file and the slots. */
static UNUSED struct qcow2 *die_and_come_back(struct qcow2 *image, uint32_t *ret_adopted)
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
static UNUSED uint64_t write_cluster(struct qcow2 *image, uint64_t cluster)
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

static UNUSED void write_back(struct qcow2 *image, enum write_back how)
{
	ck_assert_msg(qcow2_write_back(image, how, &err) == 0, "%s", err.text);
}

static UNUSED uint64_t in_file(struct qcow2 *image, uint64_t cluster)
{
	uint64_t entry, table;

	ck_assert_int_eq(pread_full(image->fd, &table, 8, image->header.l1_offset), 0);
	table = be64toh(table) & QCOW2_OFFSET_MASK;
	ck_assert_int_eq(pread_full(image->fd, &entry, 8, table + cluster * 8), 0);
	return be64toh(entry);
}

static UNUSED uint64_t count_of(struct qcow2 *image, uint64_t host)
{
	uint64_t count;

	pthread_mutex_lock(&image->lock);
	ck_assert_int_eq(
		qcow2_refcount_read(image, host >> image->header.cluster_bits, &count, &err), 0);
	pthread_mutex_unlock(&image->lock);
	return count;
}

static UNUSED struct extent look(struct qcow2 *image, uint64_t cluster)
{
	struct extent extent;

	ck_assert_int_eq(qcow2_map(image, cluster * CLUSTER, CLUSTER, &extent, &err), 0);
	return extent;
}

#endif
