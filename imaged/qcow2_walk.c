/* SPDX-License-Identifier: Apache-2.0 */
/* One function a structure of the format; each checks what it believes before it believes it. */
#include "imaged/qcow2_walk.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "common/io.h"
#include "imaged/qcow2_bitmaps.h"
#include "imaged/qcow2_format.h"
#include "imaged/qcow2_refcount.h"

struct walk {
	struct qcow2 *image;
	bool takes_faults;
	uint64_t file_end; /* the file's size, up to a whole cluster */
	reference_seen *seen;
	void *owner;
	uint64_t *table; /* one cluster */
};

const char *reference_kind_name(enum reference_kind kind)
{
	switch (kind) {
	case REFERENCE_METADATA:
		return "metadata";
	case REFERENCE_L2_TABLE:
		return "an L2 table";
	case REFERENCE_CLUSTER:
		return "a cluster of the disk";
	case REFERENCE_COMPRESSED:
		return "compressed clusters";
	}
	return "unknown";
}

static int refer(struct walk *walk, enum reference_kind kind, uint32_t tree, uint64_t offset,
	uint64_t length, struct err *err)
{
	struct reference reference = {kind, tree, offset, length};
	uint64_t in_file = offset < walk->file_end ? walk->file_end - offset : 0;

	if (walk->takes_faults && length > in_file)
		reference.length = length = in_file;
	if (length == 0)
		return 0;
	if (kind != REFERENCE_COMPRESSED && offset % walk->image->header.cluster_size &&
		!walk->takes_faults)
		return err_set(err,
			"%s is corrupt: a reference to %s at 0x%llx is not to a cluster",
			walk->image->path, reference_kind_name(kind), (unsigned long long)offset);
	if (length > in_file)
		return err_set(err,
			"%s is corrupt: a reference to %s at 0x%llx is outside the file",
			walk->image->path, reference_kind_name(kind), (unsigned long long)offset);
	return walk->seen(walk->owner, &reference, err);
}

static int compressed_entry(struct walk *walk, uint64_t entry, uint32_t tree, struct err *err)
{
	unsigned offset_bits = 62 - (walk->image->header.cluster_bits - 8);
	uint64_t offset = entry & ((UINT64_C(1) << offset_bits) - 1);
	uint64_t sectors = ((entry & (QCOW2_COMPRESSED - 1)) >> offset_bits) + 1;

	return refer(walk, REFERENCE_COMPRESSED, tree, offset, sectors * 512 - offset % 512, err);
}

static int l2_entry(struct walk *walk, uint64_t entry, uint32_t tree, struct err *err)
{
	uint64_t host = entry & QCOW2_OFFSET_MASK;

	if (entry & QCOW2_COMPRESSED)
		return compressed_entry(walk, entry, tree, err);
	if (!walk->takes_faults &&
		((entry & QCOW2_L2_RESERVED) ||
			((entry & QCOW2_ZERO) && walk->image->header.version < 3)))
		return err_set(err, "%s is corrupt: an L2 entry has reserved bits set (0x%llx)",
			walk->image->path, (unsigned long long)entry);
	return host ? refer(walk, REFERENCE_CLUSTER, tree, host, walk->image->header.cluster_size,
			      err)
		    : 0;
}

/* 0, also where it ends behind the file and that is taken: what is not there reads as nothing. */
static int read_table(struct walk *walk, uint64_t offset)
{
	uint64_t cluster = walk->image->header.cluster_size;
	int64_t found;

	if (!walk->takes_faults)
		return pread_full(walk->image->fd, walk->table, cluster, offset);
	found = pread_up_to(walk->image->fd, walk->table, cluster, offset);
	if (found < 0)
		return -1;
	memset((char *)walk->table + found, 0, cluster - (uint64_t)found);
	return 0;
}

static int l2_table(struct walk *walk, uint64_t offset, uint32_t tree, struct err *err)
{
	uint64_t cluster = walk->image->header.cluster_size;

	if (refer(walk, REFERENCE_L2_TABLE, tree, offset, cluster, err) < 0)
		return -1;
	if (read_table(walk, offset) < 0)
		return err_set_errno(err, errno, "%s: cannot read the L2 table at 0x%llx",
			walk->image->path, (unsigned long long)offset);
	for (uint64_t i = 0; i < cluster / 8; i++) {
		if (walk->table[i] != 0 && l2_entry(walk, be64toh(walk->table[i]), tree, err) < 0)
			return -1;
	}
	return 0;
}

static int l1_entries(
	struct walk *walk, const uint64_t *l1, uint64_t count, uint32_t tree, struct err *err)
{
	for (uint64_t i = 0; i < count; i++) {
		uint64_t offset = l1[i] & QCOW2_OFFSET_MASK;

		if ((l1[i] & QCOW2_L1_RESERVED) && !walk->takes_faults)
			return err_set(err,
				"%s is corrupt: an L1 entry has reserved bits set (0x%llx)",
				walk->image->path, (unsigned long long)l1[i]);
		if (offset != 0 && l2_table(walk, offset, tree, err) < 0)
			return -1;
	}
	return 0;
}

static int active_tree(struct walk *walk, struct err *err)
{
	struct qcow2 *image = walk->image;
	uint64_t count = image->header.l1_entries;
	CLEANUP_FREE uint64_t *l1 = must_calloc(count + 1, 8);

	pthread_mutex_lock(&image->lock);
	memcpy(l1, image->l1, count * 8);
	pthread_mutex_unlock(&image->lock);
	if (refer(walk, REFERENCE_METADATA, 0, image->header.l1_offset, count * 8, err) < 0)
		return -1;
	return l1_entries(walk, l1, count, 0, err);
}

static int snapshot_tree(
	struct walk *walk, uint64_t offset, uint64_t count, uint32_t tree, struct err *err)
{
	CLEANUP_FREE uint64_t *l1 = NULL;

	if (count * 8 > QCOW2_L1_BYTES_MAX)
		return err_set(err, "%s is corrupt: the L1 table of a snapshot has %llu entries",
			walk->image->path, (unsigned long long)count);
	l1 = must_calloc(count + 1, 8);
	if (refer(walk, REFERENCE_METADATA, 0, offset, count * 8, err) < 0)
		return -1;
	if (pread_full(walk->image->fd, l1, count * 8, offset) < 0)
		return err_set_errno(err, errno, "%s: cannot read the L1 table of a snapshot",
			walk->image->path);
	for (uint64_t i = 0; i < count; i++)
		l1[i] = be64toh(l1[i]);
	return l1_entries(walk, l1, count, tree, err);
}

static int snapshots(struct walk *walk, struct err *err)
{
	const struct qcow2_header *header = &walk->image->header;
	uint64_t at = header->snapshots_offset;

	for (uint32_t i = 0; i < header->snapshots; i++) {
		unsigned char entry[QCOW2_SNAPSHOT_ENTRY_MIN];
		uint64_t size;

		if (at > walk->file_end ||
			pread_full(walk->image->fd, entry, sizeof(entry), at) < 0)
			return err_set(err,
				"%s is corrupt: its snapshot table ends outside the file",
				walk->image->path);
		size = sizeof(entry) + (uint64_t)qcow2_load16(entry + 12) +
		       qcow2_load16(entry + 14) + qcow2_load32(entry + 36);
		if (snapshot_tree(walk, qcow2_load64(entry), qcow2_load32(entry + 8), i + 1, err) <
			0)
			return -1;
		at += (size + 7) & ~UINT64_C(7);
	}
	return refer(walk, REFERENCE_METADATA, 0, header->snapshots_offset,
		at - header->snapshots_offset, err);
}

static int refcount_structures(struct walk *walk, struct err *err)
{
	struct qcow2 *image = walk->image;
	CLEANUP_FREE uint64_t *blocks = NULL;
	uint64_t count, table_offset;

	pthread_mutex_lock(&image->lock);
	count = image->refcounts->entries;
	table_offset = image->header.refcount_table_offset;
	blocks = must_calloc(count + 1, 8);
	memcpy(blocks, image->refcounts->table, count * 8);
	pthread_mutex_unlock(&image->lock);
	if (refer(walk, REFERENCE_METADATA, 0, table_offset, count * 8, err) < 0)
		return -1;
	for (uint64_t i = 0; i < count; i++) {
		if (blocks[i] != 0 && refer(walk, REFERENCE_METADATA, 0, blocks[i],
					      image->header.cluster_size, err) < 0)
			return -1;
	}
	return 0;
}

/* A bitmap's table may be as large as the file; it is read a piece at a time. */
static int bitmap(struct walk *walk, const struct bitmap_entry *entry, struct err *err)
{
	uint64_t length = (uint64_t)entry->table_entries * 8;
	uint64_t cluster = walk->image->header.cluster_size;

	if (refer(walk, REFERENCE_METADATA, 0, entry->table_offset, length, err) < 0)
		return -1;
	for (uint64_t at = 0; at < length; at += cluster) {
		uint64_t piece = length - at < cluster ? length - at : cluster;

		if (pread_full(walk->image->fd, walk->table, piece, entry->table_offset + at) < 0)
			return err_set_errno(
				err, errno, "%s: cannot read a bitmap table", walk->image->path);
		for (uint64_t i = 0; i < piece / 8; i++) {
			uint64_t offset = be64toh(walk->table[i]) & QCOW2_OFFSET_MASK;

			if (offset != 0 &&
				refer(walk, REFERENCE_METADATA, 0, offset, cluster, err) < 0)
				return -1;
		}
	}
	return 0;
}

static int bitmaps(struct walk *walk, struct err *err)
{
	struct bitmap_directory directory;
	struct bitmap_entry entry = {.end = 0};
	int outcome;

	if (qcow2_bitmaps_read(walk->image, &directory, err) < 0)
		return err_wrap(err, "%s is corrupt", walk->image->path);
	outcome = refer(walk, REFERENCE_METADATA, 0, directory.offset, directory.length, err);
	for (uint32_t i = 0; i < directory.count && outcome == 0; i++) {
		outcome = bitmap_entry_parse(&directory, entry.end, &entry, err);
		if (outcome == 0)
			outcome = bitmap(walk, &entry, err);
	}
	free(directory.bytes);
	return outcome;
}

int qcow2_walk(
	struct qcow2 *image, bool takes_faults, reference_seen *seen, void *owner, struct err *err)
{
	uint64_t cluster = image->header.cluster_size;
	struct walk walk = {
		.image = image, .takes_faults = takes_faults, .seen = seen, .owner = owner};
	struct stat status;
	int outcome;

	if (fstat(image->fd, &status) < 0)
		return err_set_errno(err, errno, "%s: cannot ask for its size", image->path);
	walk.file_end = ((uint64_t)status.st_size + cluster - 1) / cluster * cluster;
	walk.table = must_calloc(1, cluster);
	outcome = refer(&walk, REFERENCE_METADATA, 0, 0, cluster, err);
	if (outcome == 0)
		outcome = refcount_structures(&walk, err);
	if (outcome == 0)
		outcome = bitmaps(&walk, err);
	if (outcome == 0)
		outcome = snapshots(&walk, err);
	if (outcome == 0)
		outcome = active_tree(&walk, err);
	free(walk.table);
	return outcome;
}
