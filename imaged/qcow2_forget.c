/* SPDX-License-Identifier: Apache-2.0 */
/* What becomes of host clusters that guests' writes have replaced, after a grace period:
 *
 *   never named by the file                     to the fresh ones of the zones
 *   named until the last write-back, one user   punched, then to the fresh ones as well: the count of 1 stays
 *   shared                                      counted lower
 *
 * Where free space is in too many pieces, and where the cluster was in the file before this life, it is counted as free instead; its
 * place is not used again. */
#include <fcntl.h>
#include <stdlib.h>

#include "common/log.h"
#include "imaged/qcow2_head.h"
#include "imaged/qcow2_refcount.h"
#include "imaged/qcow2_write_back.h"
#include "imaged/qcow2_zone.h"

/* What the file named is kept for use in no more pieces of free space than this, of either kind: a flush moves them from one set to the
 * other, with the lock held, and whoever looks for space looks at each.  (What the file never named comes back whatever their number: it
 * was taken out of a piece a moment ago.) */
#define PIECES_MAX 4096

/* One reference less; `freed` if there is none left, but still counted. */
static int lower_one(struct qcow2 *image, uint64_t cluster, struct run_list *freed, struct err *err)
{
	uint64_t count;

	if (qcow2_refcount_read(image, cluster, &count, err) < 0)
		return -1;
	if (count == 0) {
		log_warn("%s is corrupt: cluster %llu was in use and is counted as free",
			image->path, (unsigned long long)cluster);
		return 0;
	}
	if (count > 1)
		return qcow2_refcount_write(image, cluster, 1, count - 1, err);
	run_list_add(freed, cluster, 1);
	return 0;
}

/* Compressed clusters may share a host cluster, which then comes more than once: one at a time. */
static int lower_all(struct qcow2 *image, const struct run_list *forgotten, struct run_list *freed,
	struct err *err)
{
	int outcome = 0;

	for (size_t i = 0; i < forgotten->count && outcome == 0; i++) {
		pthread_mutex_lock(&image->lock);
		for (uint64_t j = 0; j < forgotten->runs[i].count && outcome == 0; j++)
			outcome = lower_one(image, forgotten->runs[i].first + j, freed, err);
		pthread_mutex_unlock(&image->lock);
	}
	return outcome;
}

/* Before anybody else may get them.  A file system without holes keeps the space, which does no harm. */
static void punch(struct qcow2 *image, const struct run_list *freed)
{
	unsigned bits = image->header.cluster_bits;

	for (size_t i = 0; i < freed->count; i++) {
		if (fallocate(image->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			    (off_t)(freed->runs[i].first << bits),
			    (off_t)(freed->runs[i].count << bits)) < 0)
			return;
	}
}

/* With the lock held.  Only what this process made is named by nobody else for certain (qcow2_vet.h). */
static bool may_take_back(const struct qcow2_zones *zones, const struct run *run)
{
	return zones->fresh.count + zones->free.count < PIECES_MAX && run->first >= zones->begin;
}

/* With the structure lock held. */
static int take_back(struct qcow2 *image, const struct run_list *freed, struct err *err)
{
	int outcome = 0;

	for (size_t i = 0; i < freed->count && outcome == 0; i++) {
		const struct run *run = &freed->runs[i];

		pthread_mutex_lock(&image->lock);
		if (may_take_back(image->zones, run))
			qcow2_zone_take_back(image, run->first, run->count);
		else
			outcome = qcow2_refcount_write(image, run->first, run->count, 0, err);
		pthread_mutex_unlock(&image->lock);
	}
	return outcome;
}

static int forget_locked(struct qcow2 *image, struct err *err)
{
	struct qcow2_writes *writes = image->writes;
	struct run_list forgotten, freed = {.runs = NULL};
	struct run_set recycled;
	unsigned announced;
	int outcome;

	pthread_mutex_lock(&image->lock);
	forgotten = writes->forgotten;
	recycled = writes->recycled;
	announced = writes->announced;
	writes->forgotten = (struct run_list){.runs = NULL};
	writes->recycled = (struct run_set){.runs = NULL};
	writes->announced = 0;
	pthread_mutex_unlock(&image->lock);
	if (forgotten.count + recycled.count > 0 && writes->hooks.wait)
		writes->hooks.wait(writes->hooks.owner);
	for (size_t i = 0; i < recycled.count; i++)
		qcow2_release_fresh(image, recycled.runs[i].first << image->header.cluster_bits,
			recycled.runs[i].count << image->header.cluster_bits);
	outcome = lower_all(image, &forgotten, &freed, err);
	if (outcome == 0)
		punch(image, &freed);
	pthread_mutex_lock(&image->head->lock);
	if (outcome == 0)
		outcome = take_back(image, &freed, err);
	while (announced-- > 0)
		qcow2_zone_leaks_over(image);
	pthread_mutex_unlock(&image->head->lock);
	free(forgotten.runs);
	free(freed.runs);
	run_set_done(&recycled);
	return outcome;
}

int qcow2_forget(struct qcow2 *image, struct err *err)
{
	int outcome;

	pthread_mutex_lock(&image->writes->forgetting);
	outcome = forget_locked(image, err);
	pthread_mutex_unlock(&image->writes->forgetting);
	return outcome;
}

int qcow2_write_back_hold(struct qcow2 *image, struct err *err)
{
	struct qcow2_writes *writes = image->writes;
	bool is_clean = false;
	int outcome = 0;

	pthread_mutex_lock(&writes->forgetting);
	while (!is_clean && outcome == 0) {
		outcome = forget_locked(image, err);
		if (outcome < 0)
			break;
		pthread_mutex_lock(&writes->running);
		pthread_mutex_lock(&image->lock);
		is_clean = writes->forgotten.count == 0;
		pthread_mutex_unlock(&image->lock);
		if (!is_clean)
			pthread_mutex_unlock(&writes->running);
	}
	if (outcome < 0)
		pthread_mutex_unlock(&writes->forgetting);
	return outcome;
}

void qcow2_write_back_release(struct qcow2 *image)
{
	pthread_mutex_unlock(&image->writes->running);
	pthread_mutex_unlock(&image->writes->forgetting);
}
