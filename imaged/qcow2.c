/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a qcow2 file and looking guest clusters up in it.  Writes nothing.
 *
 *   guest offset = | index in L1 | index in an L2 table | offset in the cluster |
 *                    l1[] in memory   through the cache     in the file, at the entry's host offset
 *
 * Entries come from strangers: each is checked where it is used.  A host cluster may not lie outside the file, nor in the
 * header, the L1 table, the refcount table, the snapshot table or the L2 table that names it.  A cluster that begins within
 * the file and ends after it reads as zeroes past the file's end, as in every other program. */
#include "imaged/qcow2.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "common/io.h"
#include "imaged/qcow2_format.h"
#include "imaged/qcow2_l2_cache.h"
#include "imaged/qcow2_pending.h"
#include "imaged/qcow2_update.h"
#include "imaged/qcow2_vet.h"

/* One look-up reads no more tables than this: it holds the lock. */
#define TABLES_PER_MAP 16

DEFINE_CLEANUP(qcow2, qcow2_free)

static int look_at_size(struct qcow2 *image, struct err *err)
{
	struct stat status;
	off_t size;

	if (fstat(image->fd, &status) < 0)
		return err_set_errno(err, errno, "%s: cannot tell its size", image->path);
	size = S_ISBLK(status.st_mode) ? lseek(image->fd, 0, SEEK_END) : status.st_size;
	if (size < 0)
		return err_set_errno(err, errno, "%s: cannot tell its size", image->path);
	image->file_size = (uint64_t)size;
	return 0;
}

static int read_header(struct qcow2 *image, struct err *err)
{
	CLEANUP_FREE unsigned char *bytes = must_calloc(1, QCOW2_HEADER_BYTES_MAX);
	int64_t length = pread_up_to(image->fd, bytes, QCOW2_HEADER_BYTES_MAX, 0);

	if (length < 0)
		return err_set_errno(err, errno, "%s: cannot read the header", image->path);
	if (qcow2_header_parse(bytes, (size_t)length, image->file_size, &image->header, err) < 0)
		return err_wrap(err, "%s", image->path);
	return 0;
}

static void to_host_order(uint64_t *entries, size_t count)
{
	for (size_t i = 0; i < count; i++)
		entries[i] = be64toh(entries[i]);
}

static int read_l1(struct qcow2 *image, struct err *err)
{
	size_t entries = image->header.l1_entries;

	image->l1 = must_calloc(entries ? entries : 1, sizeof(*image->l1));
	if (pread_full(image->fd, image->l1, entries * sizeof(*image->l1),
		    image->header.l1_offset) < 0)
		return err_set_errno(err, errno, "%s: cannot read the L1 table", image->path);
	to_host_order(image->l1, entries);
	return 0;
}

int qcow2_open(int fd, const char *path, struct qcow2 **ret_image, struct err *err)
{
	CLEANUP(qcow2_cleanup) struct qcow2 *image = must_calloc(1, sizeof(*image));

	pthread_mutex_init(&image->lock, NULL);
	pthread_mutex_init(&image->flush_lock, NULL);
	image->fd = fd;
	image->path = must_strdup(path);
	if (look_at_size(image, err) < 0 || read_header(image, err) < 0 || read_l1(image, err) < 0)
		return -1;
	image->l2 = l2_cache_new(image->header.cluster_bits, image->header.l1_entries);
	*ret_image = steal(&image);
	return 0;
}

void qcow2_free(struct qcow2 *image)
{
	if (!image)
		return;
	/* What could not be written is clean in memory all the same: whoever opens it next shall see what is on disk. */
	if (image->failed)
		(void)posix_fadvise(image->fd, 0, 0, POSIX_FADV_DONTNEED);
	qcow2_stop_writing(image);
	l2_cache_free(image->l2);
	free(image->l1);
	free(image->path);
	close(image->fd);
	pthread_mutex_destroy(&image->flush_lock);
	pthread_mutex_destroy(&image->lock);
	free(image);
}

static bool overlap(uint64_t one, uint64_t one_length, uint64_t other, uint64_t other_length)
{
	return one < other + other_length && other < one + one_length;
}

/* The name of what a reference would hit that it must not, or NULL.  The tables of the header only: what else is in use as
 * metadata is known to who walks the whole image. */
static const char *metadata_at(const struct qcow2 *image, uint64_t host, uint64_t length)
{
	const struct qcow2_header *header = &image->header;

	if (host < header->cluster_size)
		return "the header";
	if (overlap(host, length, header->l1_offset, header->l1_entries * UINT64_C(8)))
		return "the L1 table";
	if (overlap(host, length, header->refcount_table_offset,
		    (uint64_t)header->refcount_table_clusters << header->cluster_bits))
		return "the refcount table";
	if (header->snapshots && overlap(host, length, header->snapshots_offset, 1))
		return "the snapshot table";
	return NULL;
}

/* A reference to `length` bytes of the file, of which the first `needed` must exist. */
static int check_reference(struct qcow2 *image, const char *what, uint64_t host, uint64_t length,
	uint64_t needed, struct err *err)
{
	const char *metadata;

	if (host > INT64_MAX - length)
		return err_set(err, "%s: the %s at offset 0x%llx is outside every file",
			image->path, what, (unsigned long long)host);
	metadata = metadata_at(image, host, length);
	if (metadata)
		return err_set(err, "%s is corrupt: the %s at offset 0x%llx lies in %s",
			image->path, what, (unsigned long long)host, metadata);
	if (host + needed > image->file_size && look_at_size(image, err) < 0)
		return -1;
	if (host + needed > image->file_size)
		return err_set(err,
			"%s is corrupt: the %s at offset 0x%llx lies outside the file of %llu bytes",
			image->path, what, (unsigned long long)host,
			(unsigned long long)image->file_size);
	return 0;
}

static int check_cluster_reference(
	struct qcow2 *image, const char *what, uint64_t host, uint64_t needed, struct err *err)
{
	if (host & (image->header.cluster_size - 1))
		return err_set(err,
			"%s is corrupt: the %s at offset 0x%llx is not at the start of a cluster",
			image->path, what, (unsigned long long)host);
	return check_reference(image, what, host, image->header.cluster_size, needed, err);
}

static unsigned l2_span_bits(const struct qcow2 *image)
{
	return image->header.cluster_bits * 2 - 3;
}

static int l2_offset(
	struct qcow2 *image, uint64_t offset, uint64_t *ret_table_offset, struct err *err)
{
	uint64_t index = offset >> l2_span_bits(image);
	uint64_t entry;

	bug_if(index >= image->header.l1_entries);
	entry = image->l1[index];
	if (entry & QCOW2_L1_RESERVED)
		return err_set(err,
			"%s is corrupt: entry %llu of the L1 table has reserved bits set (0x%llx)",
			image->path, (unsigned long long)index, (unsigned long long)entry);
	entry &= QCOW2_OFFSET_MASK;
	if (entry && check_cluster_reference(
			     image, "L2 table", entry, image->header.cluster_size, err) < 0)
		return -1;
	*ret_table_offset = entry;
	return 0;
}

static int load_l2_table(
	struct qcow2 *image, uint64_t table_offset, const uint64_t **ret_table, struct err *err)
{
	uint64_t *table = l2_cache_find(image->l2, table_offset);

	if (!table) {
		table = l2_cache_add(image->l2, table_offset);
		if (pread_full(image->fd, table, image->header.cluster_size, table_offset) < 0) {
			err_set_errno(err, errno, "%s: cannot read the L2 table at offset 0x%llx",
				image->path, (unsigned long long)table_offset);
			l2_cache_forget(image->l2, table_offset);
			return -1;
		}
		to_host_order(table, image->header.cluster_size / sizeof(*table));
	}
	*ret_table = table;
	return 0;
}

int qcow2_l2_table(
	struct qcow2 *image, uint64_t offset, const uint64_t **ret_table, struct err *err)
{
	uint64_t table_offset;

	if (l2_offset(image, offset, &table_offset, err) < 0)
		return -1;
	*ret_table = NULL;
	if (!table_offset)
		return 0;
	if (load_l2_table(image, table_offset, ret_table, err) < 0)
		return -1;
	return qcow2_vet_table(image, offset >> l2_span_bits(image), *ret_table, err);
}

void qcow2_l2_forget(struct qcow2 *image, uint64_t table_offset)
{
	l2_cache_forget(image->l2, table_offset);
}

void qcow2_l2_changed(struct qcow2 *image, uint64_t table_offset, unsigned first, unsigned count,
	const uint64_t *entries)
{
	uint64_t *table = l2_cache_find(image->l2, table_offset);

	bug_if(first > image->header.cluster_size / sizeof(*table) ||
		count > image->header.cluster_size / sizeof(*table) - first);
	if (table)
		memcpy(table + first, entries, count * sizeof(*table));
}

/* "Compressed Clusters Descriptor": the host offset in the lower bits (any byte), above it the number of 512-byte sectors
 * that are touched after the first one. */
static int compressed_extent(struct qcow2 *image, uint64_t entry, uint64_t skip,
	struct extent *ret_extent, struct err *err)
{
	unsigned offset_bits = 62 - (image->header.cluster_bits - 8);
	uint64_t descriptor = entry & (QCOW2_COMPRESSED - 1);
	uint64_t host = descriptor & ((UINT64_C(1) << offset_bits) - 1);
	uint64_t length = ((descriptor >> offset_bits) + 1) * 512 - host % 512;

	if (check_reference(image, "compressed cluster", host, length, 1, err) < 0)
		return -1;
	if (host + length > image->file_size && look_at_size(image, err) < 0)
		return -1;
	/* The last sector of a file need not be whole; all others must be there. */
	if (host + length > (image->file_size + 511) / 512 * 512)
		return err_set(err,
			"%s is corrupt: the compressed cluster at offset 0x%llx (%llu bytes) reaches outside the file of %llu bytes",
			image->path, (unsigned long long)host, (unsigned long long)length,
			(unsigned long long)image->file_size);
	if (length > image->file_size - host)
		length = image->file_size - host;
	*ret_extent = (struct extent){
		.kind = EXTENT_COMPRESSED,
		.length = image->header.cluster_size - skip,
		.host_offset = host,
		.codec = image->header.zstd ? EXTENT_ZSTD : EXTENT_DEFLATE,
		.host_length = length,
		.cluster_size = image->header.cluster_size,
		.cluster_skip = skip,
	};
	return 0;
}

struct run qcow2_entry_clusters(const struct qcow2 *image, uint64_t entry)
{
	unsigned bits = image->header.cluster_bits, offset_bits = 62 - (bits - 8);
	uint64_t host = entry & QCOW2_OFFSET_MASK, length, end;

	if (!(entry & QCOW2_COMPRESSED))
		return (struct run){host >> bits, host ? 1 : 0};
	host = entry & ((UINT64_C(1) << offset_bits) - 1);
	length = (((entry & (QCOW2_COMPRESSED - 1)) >> offset_bits) + 1) * 512 - host % 512;
	end = (host + length - 1) >> bits;
	return (struct run){host >> bits, end - (host >> bits) + 1};
}

int qcow2_check_entry(struct qcow2 *image, uint64_t entry, struct err *err)
{
	struct extent extent;

	if (entry & QCOW2_COMPRESSED)
		return compressed_extent(image, entry, 0, &extent, err);
	return check_cluster_reference(image, "cluster", entry & QCOW2_OFFSET_MASK, 1, err);
}

/* A plain cluster, as far as the file has it. */
static void data_extent(
	const struct qcow2 *image, uint64_t host, uint64_t skip, struct extent *ret_extent)
{
	uint64_t there = image->file_size > host ? image->file_size - host : 0;

	*ret_extent =
		(struct extent){.kind = EXTENT_ZERO, .length = image->header.cluster_size - skip};
	if (skip >= there)
		return;
	ret_extent->kind = EXTENT_DATA;
	ret_extent->host_offset = host + skip;
	if (ret_extent->length > there - skip)
		ret_extent->length = there - skip;
}

/* What one entry says about its cluster, from `skip` bytes into it to its end. */
static int entry_extent(struct qcow2 *image, uint64_t table_offset, uint64_t entry, uint64_t skip,
	struct extent *ret_extent, struct err *err)
{
	uint64_t host = entry & QCOW2_OFFSET_MASK;
	bool is_zero = entry & QCOW2_ZERO;

	if (entry & QCOW2_COMPRESSED)
		return compressed_extent(image, entry, skip, ret_extent, err);
	if ((entry & QCOW2_L2_RESERVED) || (is_zero && image->header.version < 3))
		return err_set(err,
			"%s is corrupt: an entry of the L2 table at offset 0x%llx has reserved bits set (0x%llx)",
			image->path, (unsigned long long)table_offset, (unsigned long long)entry);
	if (host && check_cluster_reference(image, "cluster", host, 1, err) < 0)
		return -1;
	if (host && host == table_offset)
		return err_set(err,
			"%s is corrupt: the L2 table at offset 0x%llx names itself as a cluster",
			image->path, (unsigned long long)table_offset);
	if (host && !is_zero) {
		if (host + image->header.cluster_size > image->file_size &&
			look_at_size(image, err) < 0)
			return -1;
		data_extent(image, host, skip, ret_extent);
		return 0;
	}
	*ret_extent = (struct extent){
		.kind = is_zero ? EXTENT_ZERO : EXTENT_ABSENT,
		.length = image->header.cluster_size - skip,
		.host_offset = host ? host + skip : 0,
	};
	return 0;
}

/* Whether `next` goes on where `extent` ends; then one stands for both. */
static bool extent_join(struct extent *extent, const struct extent *next)
{
	if (extent->kind != next->kind || extent->kind == EXTENT_COMPRESSED)
		return false;
	if (extent->host_offset || next->host_offset) {
		if (!extent->host_offset ||
			extent->host_offset + extent->length != next->host_offset)
			return false;
	}
	extent->length += next->length;
	return true;
}

/* A table of the file, NULL for one that is not there, below the entries that are not in the file yet. */
struct table_view {
	const struct pending *pending; /* NULL: none are of this table */
	const uint64_t *table;
	uint64_t first; /* guest cluster of its first entry */
};

static uint64_t entry_at(const struct table_view *view, uint64_t i)
{
	const struct pending_slot *slot = pending_find(view->pending, view->first + i);

	if (slot)
		return slot->entry;
	return view->table ? view->table[i] : 0;
}

static int view_table(struct qcow2 *image, uint64_t table_offset, uint64_t offset,
	struct table_view *ret_view, struct err *err)
{
	uint64_t index = offset >> l2_span_bits(image);
	struct table_view view = {
		.pending = pending_in_table(image->pending, index) ? image->pending : NULL,
		.first = index << (image->header.cluster_bits - 3),
	};

	if (table_offset && (load_l2_table(image, table_offset, &view.table, err) < 0 ||
				    qcow2_vet_table(image, index, view.table, err) < 0))
		return -1;
	*ret_view = view;
	return 0;
}

int qcow2_entry(struct qcow2 *image, uint64_t cluster, uint64_t *ret_entry, struct err *err)
{
	const struct pending_slot *slot = pending_find(image->pending, cluster);
	uint64_t per_table = image->header.cluster_size / sizeof(uint64_t);
	const uint64_t *table = NULL;

	if (slot) {
		*ret_entry = slot->entry;
		return 0;
	}
	if (qcow2_l2_table(image, cluster << image->header.cluster_bits, &table, err) < 0)
		return -1;
	*ret_entry = table ? table[cluster % per_table] : 0;
	return 0;
}

/* From `offset` to the end of its L2 table's span, one extent of at most `length` bytes. */
static int table_extent(struct qcow2 *image, uint64_t table_offset, uint64_t offset,
	uint64_t length, struct extent *ret_extent, struct err *err)
{
	uint64_t cluster_size = image->header.cluster_size;
	size_t entries = cluster_size / sizeof(uint64_t);
	size_t i = (offset >> image->header.cluster_bits) % entries;
	struct table_view view;
	struct extent extent;

	if (view_table(image, table_offset, offset, &view, err) < 0 ||
		entry_extent(image, table_offset, entry_at(&view, i), offset & (cluster_size - 1),
			&extent, err) < 0)
		return -1;
	while (++i < entries && extent.length < length) {
		struct extent next;

		/* An entry that can't be believed is reported when it is asked for. */
		if (entry_extent(image, table_offset, entry_at(&view, i), 0, &next, NULL) < 0 ||
			!extent_join(&extent, &next))
			break;
	}
	*ret_extent = extent;
	return 0;
}

/* Over all L2 tables that are not there at all. */
static void absent_extent(
	const struct qcow2 *image, uint64_t offset, uint64_t length, struct extent *ret_extent)
{
	uint64_t index = offset >> l2_span_bits(image);
	uint64_t end;

	do {
		end = ++index << l2_span_bits(image);
	} while (end < offset + length && image->l1[index] == 0 &&
		 pending_in_table(image->pending, index) == 0);
	*ret_extent = (struct extent){.kind = EXTENT_ABSENT, .length = end - offset};
}

static int piece_at(struct qcow2 *image, uint64_t offset, uint64_t length, unsigned *tables,
	struct extent *ret_extent, struct err *err)
{
	uint64_t table_offset;

	if (l2_offset(image, offset, &table_offset, err) < 0)
		return -1;
	if (table_offset || pending_in_table(image->pending, offset >> l2_span_bits(image))) {
		++*tables;
		return table_extent(image, table_offset, offset, length, ret_extent, err);
	}
	absent_extent(image, offset, length, ret_extent);
	return 0;
}

static int map_locked(struct qcow2 *image, uint64_t offset, uint64_t length,
	struct extent *ret_extent, struct err *err)
{
	struct extent extent;
	unsigned tables = 0;

	if (piece_at(image, offset, length, &tables, &extent, err) < 0)
		return -1;
	while (extent.length < length && tables < TABLES_PER_MAP) {
		struct extent next;

		if (piece_at(image, offset + extent.length, length - extent.length, &tables, &next,
			    NULL) < 0 ||
			!extent_join(&extent, &next))
			break;
	}
	if (extent.length > length)
		extent.length = length;
	*ret_extent = extent;
	return 0;
}

int qcow2_map(struct qcow2 *image, uint64_t offset, uint64_t length, struct extent *ret_extent,
	struct err *err)
{
	int result;

	pthread_mutex_lock(&image->lock);
	bug_if(length == 0 || offset > image->header.disk_size ||
		length > image->header.disk_size - offset);
	result = map_locked(image, offset, length, ret_extent, err);
	pthread_mutex_unlock(&image->lock);
	return result;
}
