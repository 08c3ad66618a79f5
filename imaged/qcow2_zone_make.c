/* SPDX-License-Identifier: Apache-2.0 */
/* Making a zone:
 *
 *   the file's end moved, space allocated
 *   hint names it, new refcount blocks (and table) written   flush
 *   counts in old blocks                                     flush, if new blocks are among the counted
 *   entries of the refcount table, or the header's pointer to a new one   flush, the old table's counts lowered
 *   its clusters are free to use
 *
 * A crash before the end leaves a range that nothing refers to: not counted, or named by the hint.
 *
 * Who makes one has taken its place in the file at once, and others go on behind it meanwhile.  If it comes to nothing then, the
 * place stays a hole. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/check.h"
#include "imaged/qcow2_refcount.h"
#include "imaged/qcow2_update.h"
#include "imaged/qcow2_zone.h"
#include "schemas/errors.gen.h"

/* So much past a zone's end is named in the hint and, if there is room, has refcount blocks: bytes, but no more than twice the
 * disk, nor more than so many bytes of blocks can count. */
#define AHEAD_BYTES	   (UINT64_C(4) << 30)
#define AHEAD_BLOCKS_BYTES (UINT64_C(1) << 20)

#define NO_ROOM 1

static uint64_t clusters_ahead(const struct qcow2 *image)
{
	uint64_t disk = image->header.disk_size;
	uint64_t bytes = disk < AHEAD_BYTES / 2 ? disk * 2 : AHEAD_BYTES;
	uint64_t clusters = bytes >> image->header.cluster_bits;
	uint64_t blocks = AHEAD_BLOCKS_BYTES >> image->header.cluster_bits;
	uint64_t most = (blocks > 1 ? blocks : 2) * image->refcounts->block_entries;

	return clusters < most ? clusters : most;
}

/* In bytes: nothing that is made ahead takes more of what is free. */
static uint64_t share_of_free(const struct qcow2 *image)
{
	struct statvfs file_system;

	if (fstatvfs(image->fd, &file_system) < 0)
		return UINT64_MAX;
	return (uint64_t)file_system.f_bavail * file_system.f_frsize / 8;
}

/* At least one. */
static uint64_t clusters_within(const struct qcow2 *image, uint64_t bytes, uint64_t share)
{
	uint64_t clusters = (bytes < share ? bytes : share) >> image->header.cluster_bits;

	return clusters > 0 ? clusters : 1;
}

/* How large the zone should be: what was asked for, at least the next size. */
static uint64_t clusters_for_zone(struct qcow2 *image, uint64_t want)
{
	uint64_t bytes, wanted = want << image->header.cluster_bits;

	pthread_mutex_lock(&image->lock);
	bytes = image->zones->next_bytes;
	pthread_mutex_unlock(&image->lock);
	while (bytes < wanted && bytes < ZONE_BYTES_MAX)
		bytes *= 2;
	if (bytes > ZONE_BYTES_MAX)
		bytes = ZONE_BYTES_MAX;
	return clusters_within(image, bytes, share_of_free(image));
}

/* Space for [first, end): allocated where the file system can, else only the file's length. */
static int extend_file(struct qcow2 *image, uint64_t first, uint64_t end)
{
	off_t from = (off_t)(first << image->header.cluster_bits);
	off_t to = (off_t)(end << image->header.cluster_bits);

	if (fallocate(image->fd, 0, from, to - from) == 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != ENOSYS)
		return -1;
	return ftruncate(image->fd, to);
}

/* What a failed attempt added goes again; the file is no shorter than before. */
static void cut_back(struct qcow2 *image, uint64_t end)
{
	uint64_t bytes = end << image->header.cluster_bits;
	struct stat status;

	if (fstat(image->fd, &status) == 0 && (uint64_t)status.st_size > bytes &&
		ftruncate(image->fd, (off_t)bytes) < 0)
		return; /* longer than needed does no harm */
}

static int no_space(struct qcow2 *image, struct err *err)
{
	err_set_kind(err, ERROR_CLASS_NO_SPACE,
		"no room for another cluster in %s: No space left on device", image->path);
	if (err)
		err->number = ENOSPC;
	return -1;
}

static bool has_failed(struct qcow2 *image)
{
	bool failed;

	pthread_mutex_lock(&image->lock);
	failed = image->failed;
	pthread_mutex_unlock(&image->lock);
	return failed;
}

/* With the image's lock held.  `want`: clusters that somebody waits for. */
static void zone_is_made(struct qcow2 *image, const struct refcount_growth *growth, uint64_t want,
	enum zone_kind kind)
{
	struct qcow2_zones *zones = image->zones;
	uint64_t most = ZONE_BYTES_MAX >> image->header.cluster_bits;
	uint64_t got = growth->end - growth->usable;

	qcow2_zone_add(image, growth->usable, growth->end, kind);
	zones->last_clusters = got;
	zones->is_tight = got < (want < most ? want : most);
	if (zones->next_bytes < ZONE_BYTES_MAX)
		zones->next_bytes *= 2;
}

/* ---- fresh ones */

/* With the image's lock held.  Whether somebody else has made one meanwhile. */
static bool is_there(const struct qcow2 *image, uint64_t want, enum zone_kind kind)
{
	return run_set_best(&image->zones->free, want) ||
	       (kind == ZONE_FRESH && run_set_best(&image->zones->fresh, want));
}

enum fresh { FRESH_IMPOSSIBLE, FRESH_IS_THERE, FRESH_PLANNED };

/* With the image's lock held.  Needs a place that the hint names, and whose blocks of counts exist. */
static enum fresh plan_fresh(
	struct qcow2 *image, uint64_t want, uint64_t clusters, struct refcount_growth *growth)
{
	const struct qcow2_zones *zones = image->zones;
	struct refcount_wish wish = {.first = zones->end, .want = clusters};
	uint64_t left = zones->named_until > zones->end ? zones->named_until - zones->end : 0;
	uint64_t most =
		left / 2 > want ? left / 2 : want; /* something is left while more is named */

	if (is_there(image, want, ZONE_FRESH))
		return FRESH_IS_THERE;
	if (wish.want > most)
		wish.want = most;
	if (image->failed || wish.want > left)
		return FRESH_IMPOSSIBLE;
	if (qcow2_refcount_plan(image, &wish, growth, NULL) < 0 || growth->usable != growth->first)
		return FRESH_IMPOSSIBLE;
	return FRESH_PLANNED;
}

static int add_fresh(
	struct qcow2 *image, const struct refcount_growth *growth, uint64_t want, struct err *err)
{
	int outcome = -1;

	pthread_mutex_lock(&image->lock);
	if (image->failed)
		qcow2_say_failed(image, err);
	else
		outcome = qcow2_refcount_write(
			image, growth->first, growth->end - growth->first, 1, err);
	if (outcome == 0) {
		image->zones->end = growth->end;
		zone_is_made(image, growth, want, ZONE_FRESH);
	} else {
		qcow2_mark_failed(image); /* some may be counted that no zone has */
	}
	pthread_mutex_unlock(&image->lock);
	return outcome;
}

/* With `end_lock` held. */
static int make_fresh_locked(struct qcow2 *image, uint64_t want, struct err *err)
{
	uint64_t clusters = clusters_for_zone(image, want);
	struct refcount_growth growth;
	enum fresh found;

	pthread_mutex_lock(&image->lock);
	found = plan_fresh(image, want, clusters, &growth);
	pthread_mutex_unlock(&image->lock);
	if (found != FRESH_PLANNED)
		return found == FRESH_IS_THERE;
	if (extend_file(image, growth.first, growth.end) < 0) {
		cut_back(image, growth.first);
		return 0;
	}
	return add_fresh(image, &growth, want, err) < 0 ? -1 : 1;
}

/* 1: there is one now; 0: it can't be; -1 and err: the image has failed. */
static int make_fresh(struct qcow2 *image, uint64_t want, struct err *err)
{
	int r;

	pthread_mutex_lock(&image->zones->end_lock);
	r = make_fresh_locked(image, want, err);
	pthread_mutex_unlock(&image->zones->end_lock);
	return r;
}

/* ---- durable ones, with the structure lock held */

/* What a durable zone shall be. */
struct wanted {
	uint64_t clusters;
	uint64_t ahead; /* behind it, with refcount blocks */
};

/* Blocks that may never be needed are not made out of the last room. */
static uint64_t ahead_with_room(const struct qcow2 *image)
{
	uint64_t ahead = clusters_ahead(image);
	uint64_t blocks = ahead / image->refcounts->block_entries + 1;

	return blocks << image->header.cluster_bits <= share_of_free(image) ? ahead : 0;
}

/* Takes the end of the file.  0, NO_ROOM, or -1 and err. */
static int take_end(struct qcow2 *image, const struct wanted *wanted,
	struct refcount_growth *growth, struct err *err)
{
	struct refcount_wish wish = {.want = wanted->clusters, .ahead = wanted->ahead};
	int r;

	pthread_mutex_lock(&image->zones->end_lock);
	pthread_mutex_lock(&image->lock);
	wish.first = image->zones->end;
	r = qcow2_refcount_plan(image, &wish, growth, err);
	pthread_mutex_unlock(&image->lock);
	if (r < 0 && wish.ahead > 0)
		r = NO_ROOM; /* at the greatest size that a file can have */
	if (r == 0 && extend_file(image, growth->first, growth->end) < 0) {
		if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)
			r = NO_ROOM;
		else
			r = err_set_errno(err, errno, "%s: cannot allocate space", image->path);
		cut_back(image, growth->first);
	}
	pthread_mutex_lock(&image->lock);
	if (r == 0)
		image->zones->end = growth->end;
	pthread_mutex_unlock(&image->lock);
	pthread_mutex_unlock(&image->zones->end_lock);
	return r;
}

static void give_end_back(struct qcow2 *image, const struct refcount_growth *growth)
{
	unsigned bits = image->header.cluster_bits;
	bool is_last;

	pthread_mutex_lock(&image->zones->end_lock);
	pthread_mutex_lock(&image->lock);
	is_last = image->zones->end == growth->end;
	if (is_last)
		image->zones->end = growth->first;
	pthread_mutex_unlock(&image->lock);
	if (is_last)
		cut_back(image, growth->first);
	else
		(void)fallocate(image->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			(off_t)(growth->first << bits),
			(off_t)((growth->end - growth->first) << bits));
	pthread_mutex_unlock(&image->zones->end_lock);
}

/* Where the file system is short: first without blocks ahead, then smaller. */
static int find_room(
	struct qcow2 *image, struct wanted wanted, struct refcount_growth *growth, struct err *err)
{
	for (;;) {
		int r = take_end(image, &wanted, growth, err);

		if (r != NO_ROOM)
			return r;
		if (wanted.ahead > 0)
			wanted.ahead = 0;
		else
			wanted.clusters /= 2;
		if (wanted.clusters == 0)
			return no_space(image, err);
	}
}

/* The hint names it, and what comes behind it: whether there are blocks for that is another matter. */
static int name_it(struct qcow2 *image, const struct refcount_growth *growth, struct err *err)
{
	unsigned bits = image->header.cluster_bits;
	const struct zone_window window = {.offset = growth->first << bits,
		.length = (growth->end - growth->first + clusters_ahead(image)) << bits};

	if (growth->table_clusters > 0) {
		qcow2_zone_expect_leaks(image, image->header.refcount_table_offset,
			image->header.refcount_table_clusters * image->header.cluster_size);
		qcow2_zone_leaks_over(image); /* nothing settles before this zone is made */
	}
	return qcow2_zone_write_hint(image, &window, err);
}

static int try_to_grow(struct qcow2 *image, struct wanted wanted,
	struct refcount_growth *ret_growth, struct err *err)
{
	uint64_t named;

	if (has_failed(image))
		return qcow2_say_failed(image, err);
	qcow2_zone_begin_settling(image);
	if (find_room(image, wanted, ret_growth, err) < 0)
		return -1;
	if (name_it(image, ret_growth, err) < 0 ||
		qcow2_refcount_grow(image, ret_growth, err) < 0) {
		if (!has_failed(image))
			give_end_back(image, ret_growth);
		return -1;
	}
	qcow2_zone_settled(image);
	named = ret_growth->end + clusters_ahead(image);
	pthread_mutex_lock(&image->lock);
	if (image->zones->named_until < named)
		image->zones->named_until = named;
	pthread_mutex_unlock(&image->lock);
	return 0;
}

/* Without fallocate() it is only when blocks are written that they turn out to have no room. */
static int grow(struct qcow2 *image, struct wanted wanted, struct refcount_growth *ret_growth,
	struct err *err)
{
	if (try_to_grow(image, wanted, ret_growth, err) == 0)
		return 0;
	if (err->number != ENOSPC || wanted.ahead == 0)
		return -1;
	wanted.ahead = 0;
	return try_to_grow(image, wanted, ret_growth, err);
}

static int make_durable(struct qcow2 *image, uint64_t want, struct err *err)
{
	const struct wanted wanted = {
		.clusters = clusters_for_zone(image, want), .ahead = ahead_with_room(image)};
	struct refcount_growth growth;

	if (grow(image, wanted, &growth, err) < 0)
		return -1;
	pthread_mutex_lock(&image->lock);
	zone_is_made(image, &growth, want, ZONE_DURABLE);
	pthread_mutex_unlock(&image->lock);
	return 0;
}

int qcow2_zone_make(struct qcow2 *image, uint64_t want, enum zone_kind kind, struct err *err)
{
	int r = kind == ZONE_FRESH ? make_fresh(image, want, err) : 0;
	bool has_one;

	if (r != 0)
		return r < 0 ? -1 : 0;
	pthread_mutex_lock(&image->head->lock);
	pthread_mutex_lock(&image->lock);
	has_one = is_there(image, want, kind);
	pthread_mutex_unlock(&image->lock);
	if (!has_one)
		r = make_durable(image, want, err);
	pthread_mutex_unlock(&image->head->lock);
	return r;
}

/* ---- before they are needed */

/* With the image's lock held.  The size of the next zone where it is time for it, else 0. */
static uint64_t clusters_wanted(const struct qcow2 *image)
{
	const struct qcow2_zones *zones = image->zones;

	if (image->failed || zones->is_tight ||
		zones->free.total + zones->fresh.total >= zones->last_clusters / 2)
		return 0;
	return zones->last_clusters;
}

/* With the image's lock held. */
static bool is_end_near(const struct qcow2 *image)
{
	const struct qcow2_zones *zones = image->zones;

	return !image->failed && !zones->is_tight && zones->named_until > 0 &&
	       zones->named_until < zones->end + clusters_ahead(image) / 2;
}

/* The zone that goes with it: small, so that the place before the name's end does not go to it. */
static uint64_t clusters_for_name(const struct qcow2 *image)
{
	uint64_t quarter = (clusters_ahead(image) / 4) << image->header.cluster_bits;

	return clusters_within(
		image, quarter < ZONE_BYTES_MIN ? quarter : ZONE_BYTES_MIN, share_of_free(image));
}

bool qcow2_zone_wanted(struct qcow2 *image)
{
	bool is_wanted;

	pthread_mutex_lock(&image->lock);
	is_wanted = clusters_wanted(image) > 0 || is_end_near(image);
	pthread_mutex_unlock(&image->lock);
	return is_wanted;
}

/* There is no room: it is tried again when it is needed. */
static int leave_it(struct qcow2 *image)
{
	if (has_failed(image))
		return -1;
	pthread_mutex_lock(&image->lock);
	image->zones->is_tight = true;
	pthread_mutex_unlock(&image->lock);
	return 0;
}

int qcow2_zone_make_ready(struct qcow2 *image, enum zone_kind kind, struct err *err)
{
	uint64_t wanted;

	pthread_mutex_lock(&image->lock);
	wanted = clusters_wanted(image);
	pthread_mutex_unlock(&image->lock);
	if (wanted == 0 || qcow2_zone_make(image, wanted, kind, err) == 0)
		return 0;
	return leave_it(image);
}

static int name_ahead(struct qcow2 *image, struct err *err)
{
	const struct wanted wanted = {
		.clusters = clusters_for_name(image), .ahead = ahead_with_room(image)};
	struct refcount_growth growth;

	if (grow(image, wanted, &growth, err) < 0)
		return -1;
	pthread_mutex_lock(&image->lock);
	qcow2_zone_add(image, growth.usable, growth.end, ZONE_DURABLE);
	pthread_mutex_unlock(&image->lock);
	return 0;
}

static bool must_look_ahead(struct qcow2 *image)
{
	bool is_near;

	pthread_mutex_lock(&image->lock);
	is_near = is_end_near(image);
	pthread_mutex_unlock(&image->lock);
	return is_near;
}

int qcow2_zone_look_ahead(struct qcow2 *image, struct err *err)
{
	int r = 0;

	if (!must_look_ahead(image))
		return 0;
	pthread_mutex_lock(&image->head->lock);
	if (must_look_ahead(image)) /* still, with the lock held */
		r = name_ahead(image, err);
	pthread_mutex_unlock(&image->head->lock);
	return r == 0 ? 0 : leave_it(image);
}
