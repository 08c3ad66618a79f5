/* SPDX-License-Identifier: Apache-2.0 */
/* Reading and writing reference counts of every width (specification, "Host cluster management").  A page of a block is read
 * once, changed in memory and written at once: a cache that never holds what the file does not. */
#include "imaged/qcow2_refcount.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/check.h"
#include "common/io.h"
#include "imaged/qcow2_format.h"
#include "imaged/qcow2_write.h"

uint64_t refcount_unpack(const unsigned char *block, unsigned order, uint64_t index)
{
	switch (order) {
	case 3:
		return block[index];
	case 4:
		return qcow2_load16(block + index * 2);
	case 5:
		return qcow2_load32(block + index * 4);
	case 6:
		return qcow2_load64(block + index * 8);
	default: {
		unsigned width = 1U << order;
		unsigned shift = (unsigned)(index << order) & 7;

		return (uint64_t)(block[(index << order) >> 3] >> shift) & ((1U << width) - 1);
	}
	}
}

void refcount_pack(unsigned char *block, unsigned order, uint64_t index, uint64_t value)
{
	switch (order) {
	case 3:
		block[index] = (unsigned char)value;
		break;
	case 4:
		qcow2_store16(block + index * 2, (uint16_t)value);
		break;
	case 5:
		qcow2_store32(block + index * 4, (uint32_t)value);
		break;
	case 6:
		qcow2_store64(block + index * 8, value);
		break;
	default: {
		unsigned shift = (unsigned)(index << order) & 7;
		unsigned mask = ((1U << (1U << order)) - 1) << shift;
		unsigned char *byte = &block[(index << order) >> 3];

		*byte = (unsigned char)((*byte & ~mask) | (((unsigned)value << shift) & mask));
		break;
	}
	}
}

void qcow2_mark_failed(struct qcow2 *image)
{
	image->failed = true;
	if (image->writes && image->writes->hooks.failed)
		image->writes->hooks.failed(image->writes->hooks.owner);
}

int qcow2_fail(struct qcow2 *image, int number, const char *what, struct err *err)
{
	qcow2_mark_failed(image);
	err_set_errno(err, number, "%s: %s", image->path, what);
	/* Whatever the system said: not that one may ask again when there is more room. */
	if (err)
		err->number = EIO;
	return -1;
}

int qcow2_say_failed(const struct qcow2 *image, struct err *err)
{
	return err_set_errno(err, EIO, "%s has failed and must be opened anew", image->path);
}

void qcow2_refcounts_free(struct qcow2_refcounts *refcounts)
{
	if (!refcounts)
		return;
	free(refcounts->table);
	free(refcounts);
}

static int compare_offsets(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

	return (a > b) - (a < b);
}

/* Two entries with one block would make each other's counts. */
static int check_no_block_twice(
	const struct qcow2 *image, const struct qcow2_refcounts *refcounts, struct err *err)
{
	uint64_t *offsets = must_calloc(refcounts->entries + 1, 8);
	uint64_t count = 0;
	int outcome = 0;

	for (uint64_t i = 0; i < refcounts->entries; i++) {
		if (refcounts->table[i] != 0)
			offsets[count++] = refcounts->table[i];
	}
	qsort(offsets, count, 8, compare_offsets);
	for (uint64_t i = 1; i < count && outcome == 0; i++) {
		if (offsets[i] == offsets[i - 1])
			outcome = err_set(err,
				"%s is corrupt: the refcount table names the block at %llu twice",
				image->path, (unsigned long long)offsets[i]);
	}
	free(offsets);
	return outcome;
}

static bool overlaps(uint64_t a, uint64_t a_length, uint64_t b, uint64_t b_length)
{
	return a < b + b_length && b < a + a_length;
}

static int check_table(const struct qcow2 *image, const struct qcow2_refcounts *refcounts,
	uint64_t file_size, struct err *err)
{
	const struct qcow2_header *header = &image->header;
	uint64_t cluster = header->cluster_size;

	for (uint64_t i = 0; i < refcounts->entries; i++) {
		uint64_t offset = refcounts->table[i];
		const char *fault = NULL;

		if (offset == 0)
			continue;
		if (offset % cluster)
			fault = "is not where a cluster begins";
		else if (offset >= file_size || cluster > file_size - offset)
			fault = "is outside the file";
		else if (overlaps(offset, cluster, header->l1_offset,
				 (uint64_t)header->l1_entries * 8))
			fault = "lies in the L1 table";
		else if (overlaps(offset, cluster, header->refcount_table_offset,
				 header->refcount_table_clusters * cluster))
			fault = "lies in the refcount table";
		if (fault)
			return err_set(err, "%s is corrupt: refcount block %llu (at %llu) %s",
				image->path, (unsigned long long)i, (unsigned long long)offset,
				fault);
	}
	return check_no_block_twice(image, refcounts, err);
}

int qcow2_refcounts_load(struct qcow2 *image, struct err *err)
{
	const struct qcow2_header *header = &image->header;
	uint64_t bytes = (uint64_t)header->refcount_table_clusters * header->cluster_size;
	struct qcow2_refcounts *refcounts = must_calloc(1, sizeof(*refcounts));
	struct stat status;

	refcounts->order = header->refcount_order;
	refcounts->entries = bytes / 8;
	refcounts->block_entries = (header->cluster_size * 8) >> header->refcount_order;
	refcounts->most = header->refcount_order == 6
				  ? UINT64_MAX
				  : (UINT64_C(1) << (1U << refcounts->order)) - 1;
	refcounts->page_size = header->cluster_size < REFCOUNT_PAGE_SIZE
				       ? (size_t)header->cluster_size
				       : REFCOUNT_PAGE_SIZE;
	refcounts->table = must_calloc(refcounts->entries, 8);
	if (fstat(image->fd, &status) < 0 ||
		pread_full(image->fd, refcounts->table, bytes, header->refcount_table_offset) < 0) {
		err_set_errno(err, errno, "%s: cannot read the refcount table", image->path);
		goto refuse;
	}
	for (uint64_t i = 0; i < refcounts->entries; i++)
		refcounts->table[i] = qcow2_load64(&refcounts->table[i]);
	if (check_table(image, refcounts, (uint64_t)status.st_size, err) < 0)
		goto refuse;
	image->refcounts = refcounts;
	return 0;
refuse:
	qcow2_refcounts_free(refcounts);
	return -1;
}

/* The page that holds the count of `cluster`; its block must exist. */
static struct refcount_page *page_of(
	struct qcow2 *image, uint64_t cluster, uint64_t *ret_index, struct err *err)
{
	struct qcow2_refcounts *refcounts = image->refcounts;
	uint64_t per_page = ((uint64_t)refcounts->page_size * 8) >> refcounts->order;
	uint64_t within = cluster % refcounts->block_entries;
	uint64_t offset = refcounts->table[cluster / refcounts->block_entries] +
			  within / per_page * refcounts->page_size;
	struct refcount_page *page =
		&refcounts->pages[(offset / refcounts->page_size) % REFCOUNT_PAGES];

	if (page->offset != offset) {
		page->offset = 0;
		if (pread_full(image->fd, page->bytes, refcounts->page_size, offset) < 0) {
			err_set_errno(err, errno, "%s: cannot read refcounts at %llu", image->path,
				(unsigned long long)offset);
			return NULL;
		}
		page->offset = offset;
	}
	*ret_index = within % per_page;
	return page;
}

static bool has_block(const struct qcow2_refcounts *refcounts, uint64_t cluster)
{
	uint64_t block = cluster / refcounts->block_entries;

	return block < refcounts->entries && refcounts->table[block] != 0;
}

int qcow2_refcount_read_many(
	struct qcow2 *image, uint64_t first, uint64_t count, uint64_t *ret_counts, struct err *err)
{
	struct qcow2_refcounts *refcounts = image->refcounts;
	uint64_t per_page = ((uint64_t)refcounts->page_size * 8) >> refcounts->order;

	for (uint64_t i = 0; i < count;) {
		struct refcount_page *page;
		uint64_t index;

		if (!has_block(refcounts, first + i)) {
			ret_counts[i++] = 0;
			continue;
		}
		page = page_of(image, first + i, &index, err);
		if (!page)
			return -1;
		for (; index < per_page && i < count; index++)
			ret_counts[i++] = refcount_unpack(page->bytes, refcounts->order, index);
	}
	return 0;
}

int qcow2_refcount_read(struct qcow2 *image, uint64_t cluster, uint64_t *ret_count, struct err *err)
{
	return qcow2_refcount_read_many(image, cluster, 1, ret_count, err);
}

/* Bytes of a page that were changed and are not written yet. */
struct unwritten {
	struct refcount_page *page;
	uint64_t from, to;
};

static int write_changes(struct qcow2 *image, struct unwritten *unwritten, struct err *err)
{
	struct refcount_page *page = unwritten->page;

	unwritten->page = NULL;
	if (!page || pwrite_full(image->fd, page->bytes + unwritten->from,
			     unwritten->to - unwritten->from, page->offset + unwritten->from) == 0)
		return 0;
	page->offset = 0;
	return qcow2_fail(image, errno, "cannot write refcounts", err);
}

/* Changes counts in memory; what it leaves in `unwritten` is in one page. */
static int change_run(struct qcow2 *image, const struct run *run, uint64_t value,
	struct unwritten *unwritten, struct err *err)
{
	struct qcow2_refcounts *refcounts = image->refcounts;
	uint64_t per_page = ((uint64_t)refcounts->page_size * 8) >> refcounts->order;

	for (uint64_t i = 0; i < run->count;) {
		struct refcount_page *page;
		uint64_t index;

		if (!has_block(refcounts, run->first + i)) {
			bug_if(value != 0);
			i++;
			continue;
		}
		/* Before another page may take the place of this one. */
		if (unwritten->page && (run->first + i) % per_page == 0 &&
			write_changes(image, unwritten, err) < 0)
			return -1;
		page = page_of(image, run->first + i, &index, err);
		if (!page)
			return -1;
		if (!unwritten->page)
			unwritten->from = (index << refcounts->order) >> 3;
		unwritten->page = page;
		for (; index < per_page && i < run->count; index++, i++)
			refcount_pack(page->bytes, refcounts->order, index, value);
		unwritten->to = ((index << refcounts->order) + 7) >> 3;
	}
	return 0;
}

int qcow2_refcount_write_runs(
	struct qcow2 *image, const struct run *runs, size_t count, uint64_t value, struct err *err)
{
	struct qcow2_refcounts *refcounts = image->refcounts;
	uint64_t per_page = ((uint64_t)refcounts->page_size * 8) >> refcounts->order;
	struct unwritten unwritten = {.page = NULL};

	bug_if(value > refcounts->most);
	for (size_t i = 0; i < count; i++) {
		bool is_next_page =
			i > 0 && runs[i].first / per_page !=
					 (runs[i - 1].first + runs[i - 1].count - 1) / per_page;

		if ((is_next_page && write_changes(image, &unwritten, err) < 0) ||
			change_run(image, &runs[i], value, &unwritten, err) < 0)
			return -1;
	}
	return write_changes(image, &unwritten, err);
}

int qcow2_refcount_write(
	struct qcow2 *image, uint64_t first, uint64_t count, uint64_t value, struct err *err)
{
	struct run run = {first, count};

	return qcow2_refcount_write_runs(image, &run, 1, value, err);
}

int qcow2_refcount_lower(struct qcow2 *image, uint64_t cluster, struct err *err)
{
	uint64_t count;

	if (qcow2_refcount_read(image, cluster, &count, err) < 0)
		return -1;
	if (count == 0)
		return err_set(err, "%s is corrupt: cluster %llu is in use and counted as free",
			image->path, (unsigned long long)cluster);
	return qcow2_refcount_write(image, cluster, 1, count - 1, err);
}

/* One past the last cluster in use that this block counts, 0 where there is none. */
static int end_of_block(struct qcow2 *image, uint64_t block, uint64_t *ret_cluster, struct err *err)
{
	struct qcow2_refcounts *refcounts = image->refcounts;
	uint64_t cluster = (block + 1) * refcounts->block_entries;

	while (cluster > block * refcounts->block_entries) {
		uint64_t index;
		struct refcount_page *page = page_of(image, cluster - 1, &index, err);

		if (!page)
			return -1;
		for (; index != UINT64_MAX; index--, cluster--) {
			if (refcount_unpack(page->bytes, refcounts->order, index) != 0) {
				*ret_cluster = cluster;
				return 0;
			}
		}
	}
	*ret_cluster = 0;
	return 0;
}

int qcow2_refcounts_end(struct qcow2 *image, uint64_t *ret_cluster, struct err *err)
{
	for (uint64_t block = image->refcounts->entries; block-- > 0;) {
		uint64_t end;

		if (image->refcounts->table[block] == 0)
			continue;
		if (end_of_block(image, block, &end, err) < 0)
			return -1;
		if (end != 0) {
			*ret_cluster = end;
			return 0;
		}
	}
	*ret_cluster = 0;
	return 0;
}

int qcow2_refcount_table_write(struct qcow2 *image, uint64_t first, uint64_t count, struct err *err)
{
	uint64_t *bytes = must_calloc(count, 8);
	int outcome;

	for (uint64_t i = 0; i < count; i++)
		qcow2_store64(&bytes[i], image->refcounts->table[first + i]);
	outcome = pwrite_full(
		image->fd, bytes, count * 8, image->header.refcount_table_offset + first * 8);
	if (outcome < 0)
		qcow2_fail(image, errno, "cannot write the refcount table", err);
	free(bytes);
	return outcome;
}
