/* SPDX-License-Identifier: Apache-2.0 */
#include "imaged/qcow2_adopt.h"

#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "imaged/qcow2_counts.h"
#include "imaged/qcow2_refcount.h"

/* A slot's host cluster, and how many references to it the file's tables may hold: 1 where the guest cluster itself has it. */
struct place {
	uint64_t host; /* cluster */
	unsigned references;
};

static bool is_entry(uint64_t entry, uint64_t other)
{
	return ((entry ^ other) & ~QCOW2_COPIED) == 0;
}

static int does_not_fit(struct err *why, const struct pending_slot *slot, const char *what)
{
	return err_set(why, "guest cluster %llu: %s", (unsigned long long)slot->cluster - 1, what);
}

/* An entry that a guest's write makes. */
static bool is_possible(const struct qcow2 *image, uint64_t entry)
{
	uint64_t flags = entry & ~QCOW2_OFFSET_MASK;

	if (entry == QCOW2_ZERO)
		return image->header.version >= 3;
	if ((entry & QCOW2_OFFSET_MASK) == 0)
		return false;
	return flags == QCOW2_COPIED ||
	       (flags == (QCOW2_COPIED | QCOW2_ZERO) && image->header.version >= 3);
}

/* With the lock held.  0: it fits; 1: it does not, and why; -1 and err. */
static int check_slot(struct qcow2 *image, struct pending_slot *slot, struct place *ret_place,
	struct err *why, struct err *err)
{
	unsigned bits = image->header.cluster_bits;
	uint64_t cluster = slot->cluster - 1, entry, count;
	uint64_t host = slot->entry & QCOW2_OFFSET_MASK;

	*ret_place = (struct place){0};
	if (cluster >= (image->header.disk_size + image->header.cluster_size - 1) >> bits ||
		!is_possible(image, slot->entry) ||
		(host && qcow2_check_entry(image, slot->entry, why) < 0)) {
		does_not_fit(why, slot, "not of this image");
		return 1;
	}
	if (qcow2_entry(image, cluster, &entry, err) < 0)
		return -1;
	if (!is_entry(entry, slot->entry) && !is_entry(entry, slot->in_file) &&
		!is_entry(entry, slot->on_its_way)) {
		does_not_fit(why, slot, "its entry was changed by somebody else");
		return 1;
	}
	slot->in_file = slot->on_its_way = entry;
	if (host == 0)
		return 0;
	if (qcow2_refcount_read(image, host >> bits, &count, err) < 0)
		return -1;
	if (count != 1) {
		does_not_fit(why, slot, "its place is not counted once");
		return 1;
	}
	*ret_place = (struct place){.host = host >> bits,
		.references = !(entry & QCOW2_COMPRESSED) && (entry & QCOW2_OFFSET_MASK) == host};
	return 0;
}

static int compare_places(const void *left, const void *right)
{
	const struct place *a = left, *b = right;

	return (a->host > b->host) - (a->host < b->host);
}

static int compare_numbers(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

	return (a > b) - (a < b);
}

static bool has_twins(struct pending_slot *slots)
{
	CLEANUP_FREE uint64_t *clusters = must_calloc(PENDING_SLOTS, sizeof(*clusters));
	size_t count = 0;

	for (uint32_t i = 0; i < PENDING_SLOTS; i++) {
		if (slots[i].cluster != 0)
			clusters[count++] = slots[i].cluster;
	}
	qsort(clusters, count, sizeof(*clusters), compare_numbers);
	for (size_t i = 1; i < count; i++) {
		if (clusters[i] == clusters[i - 1])
			return true;
	}
	return false;
}

/* Places [*first, ...) as far as one window of counts goes; *first moves on.  0, 1 and why, or -1 and err. */
static int check_window(struct qcow2 *image, struct reference_counts *counts,
	const struct place *places, size_t count, size_t *first, struct err *why, struct err *err)
{
	uint64_t begin = places[*first].host;
	size_t end = *first;

	while (end < count && places[end].host - begin < COUNTS_WINDOW)
		end++;
	if (reference_counts_walk(counts, image, begin, places[end - 1].host - begin + 1, err) < 0)
		return -1;
	for (; *first < end; ++*first) {
		const struct place *place = &places[*first];

		if (counts->clusters[place->host - begin].count != place->references) {
			err_set(why, "cluster %llu of the file is used by somebody else",
				(unsigned long long)place->host);
			return 1;
		}
	}
	return 0;
}

static int check_places(
	struct qcow2 *image, struct place *places, size_t count, struct err *why, struct err *err)
{
	/* Damage elsewhere was there while the image was served, and is no reason not to serve it again. */
	struct reference_counts counts = {.takes_faults = true};
	size_t first = 0;
	int r = 0;

	qsort(places, count, sizeof(*places), compare_places);
	for (size_t i = 1; i < count; i++) {
		if (places[i].host == places[i - 1].host) {
			err_set(why, "cluster %llu of the file is named twice",
				(unsigned long long)places[i].host);
			return 1;
		}
	}
	while (first < count && r == 0)
		r = check_window(image, &counts, places, count, &first, why, err);
	reference_counts_done(&counts);
	return r;
}

static int check_all(struct qcow2 *image, struct pending_slot *slots, uint32_t *ret_count,
	struct err *why, struct err *err)
{
	CLEANUP_FREE struct place *places = must_calloc(PENDING_SLOTS, sizeof(*places));
	size_t place_count = 0;
	int r = 0;

	pthread_mutex_lock(&image->lock);
	for (uint32_t i = 0; i < PENDING_SLOTS && r == 0; i++) {
		if (slots[i].cluster == 0)
			continue;
		++*ret_count;
		r = check_slot(image, &slots[i], &places[place_count], why, err);
		place_count += places[place_count].host != 0;
	}
	pthread_mutex_unlock(&image->lock);
	if (r == 0 && has_twins(slots)) {
		err_set(why, "a guest cluster is named twice");
		r = 1;
	}
	if (r == 0 && place_count > 0)
		r = check_places(image, places, place_count, why, err);
	return r;
}

int qcow2_adopt(struct qcow2 *image, struct pending_slot *slots, uint32_t *ret_count,
	struct err *why, struct err *err)
{
	int r;

	*ret_count = 0;
	r = check_all(image, slots, ret_count, why, err);
	if (r < 0)
		return -1;
	if (r > 0) {
		memset(slots, 0, PENDING_SLOTS * sizeof(*slots));
		*ret_count = 0;
	}
	return 0;
}
