/* SPDX-License-Identifier: Apache-2.0 */
/* "Snapshots" of the qcow2 specification: a table of entries of varying length, each naming an L1 table.  All of it is
 * read from the file and checked against the file's length; nothing is kept. */
#include "imaged/snapshots.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "common/io.h"
#include "schemas/errors.gen.h"

#define ENTRY_BYTES	  40 /* the part of fixed length */
#define L1_BYTES_MAX	  (UINT64_C(32) << 20)
#define SNAPSHOT_NAME_MAX 255

struct snapshot {
	uint64_t l1_offset;
	uint32_t l1_entries;
	uint64_t disk_size; /* guest bytes */
	uint64_t length;    /* of its entry in the table */
	char name[SNAPSHOT_NAME_MAX + 1];
};

struct snapshot_walk {
	const struct work_scope *scope;
	const struct qcow2 *leaf;
	const struct snapshot *snapshot;
	uint64_t *table; /* one L2 table */
};

static int read_leaf(const struct qcow2 *leaf, void *buffer, size_t length, uint64_t offset,
	const char *what, struct err *err)
{
	if (pread_full(leaf->fd, buffer, length, offset) == 0)
		return 0;
	if (errno == ENODATA)
		return err_set(err, "'%s': %s reaches outside the file", leaf->path, what);
	return err_set_errno(err, errno, "read %s of '%s'", what, leaf->path);
}

static uint64_t get64(const unsigned char *bytes)
{
	uint64_t value;

	memcpy(&value, bytes, sizeof value);
	return be64toh(value);
}

static uint32_t get32(const unsigned char *bytes)
{
	uint32_t value;

	memcpy(&value, bytes, sizeof value);
	return be32toh(value);
}

static uint16_t get16(const unsigned char *bytes)
{
	uint16_t value;

	memcpy(&value, bytes, sizeof value);
	return be16toh(value);
}

static int read_snapshot(
	const struct qcow2 *leaf, uint64_t offset, struct snapshot *ret_snapshot, struct err *err)
{
	struct snapshot snapshot = {.disk_size = leaf->header.disk_size};
	unsigned char entry[ENTRY_BYTES], extra[16];
	uint32_t extra_length;
	uint16_t id_length, name_length;

	if (read_leaf(leaf, entry, sizeof entry, offset, "the snapshot table", err) < 0)
		return -1;
	snapshot.l1_offset = get64(entry);
	snapshot.l1_entries = get32(entry + 8);
	id_length = get16(entry + 12);
	name_length = get16(entry + 14);
	extra_length = get32(entry + 36);
	if (snapshot.l1_entries > L1_BYTES_MAX / 8 || extra_length > 1024 ||
		name_length > SNAPSHOT_NAME_MAX)
		return err_set(err, "'%s': the snapshot table is damaged", leaf->path);
	if (extra_length >= sizeof extra) {
		if (read_leaf(leaf, extra, sizeof extra, offset + ENTRY_BYTES, "the snapshot table",
			    err) < 0)
			return -1;
		snapshot.disk_size = get64(extra + 8);
	}
	offset += ENTRY_BYTES + extra_length + id_length;
	if (read_leaf(leaf, snapshot.name, name_length, offset, "the snapshot table", err) < 0)
		return -1;
	snapshot.length = ENTRY_BYTES + extra_length + id_length + name_length;
	snapshot.length = (snapshot.length + 7) & ~UINT64_C(7);
	*ret_snapshot = snapshot;
	return 0;
}

/* Guest bytes after which no layer below the leaf has anything. */
static uint64_t end_of_layers(const struct chain *chain)
{
	uint64_t end = 0;

	for (size_t i = 1; i < chain->count; i++) {
		if (chain->layers[i].size > end)
			end = chain->layers[i].size;
	}
	return end;
}

/* The snapshot reads [offset, end) from below. */
static int check_unallocated(
	const struct snapshot_walk *walk, uint64_t offset, uint64_t end, struct err *err)
{
	uint64_t layers_end = end_of_layers(walk->scope->chain);
	int r;

	if (end > walk->snapshot->disk_size)
		end = walk->snapshot->disk_size;
	if (end > layers_end)
		end = layers_end;
	if (offset >= end)
		return 0;
	r = work_depends(walk->scope, offset, end - offset, err);
	if (r <= 0)
		return r;
	return err_set_kind(err, ERROR_CLASS_NOT_SUPPORTED,
		"Operation is not supported: internal snapshot '%s' of '%s' needs the layers to be dropped",
		walk->snapshot->name, walk->leaf->path);
}

static bool is_unallocated(uint64_t entry)
{
	return !(entry & (QCOW2_COMPRESSED | QCOW2_ZERO)) && !(entry & QCOW2_OFFSET_MASK);
}

static int check_table(const struct snapshot_walk *walk, uint64_t table_offset,
	uint64_t guest_offset, struct err *err)
{
	uint64_t cluster_size = walk->leaf->header.cluster_size;
	uint64_t entries = cluster_size / 8, first = 0;

	if (read_leaf(walk->leaf, walk->table, cluster_size, table_offset, "an L2 table", err) < 0)
		return -1;
	while (first < entries) {
		uint64_t end = first;

		while (end < entries && is_unallocated(be64toh(walk->table[end])))
			end++;
		if (end > first && check_unallocated(walk, guest_offset + first * cluster_size,
					   guest_offset + end * cluster_size, err) < 0)
			return -1;
		first = end + 1;
	}
	return 0;
}

static int check_l1(const struct snapshot_walk *walk, const uint64_t *l1, struct err *err)
{
	const struct snapshot *snapshot = walk->snapshot;
	uint64_t cluster_size = walk->leaf->header.cluster_size;
	uint64_t span = cluster_size * (cluster_size / 8);
	uint32_t i = 0;
	int r;

	while (i < snapshot->l1_entries && i * span < snapshot->disk_size) {
		uint64_t table = be64toh(l1[i]) & QCOW2_OFFSET_MASK;
		uint32_t end = i + 1;

		if (table) {
			r = check_table(walk, table, i * span, err);
		} else {
			while (end < snapshot->l1_entries &&
				!(be64toh(l1[end]) & QCOW2_OFFSET_MASK))
				end++;
			r = check_unallocated(walk, i * span, end * span, err);
		}
		if (r < 0)
			return -1;
		i = end;
	}
	return check_unallocated(walk, i * span, UINT64_MAX, err);
}

static int check_snapshot(
	const struct work_scope *scope, const struct snapshot *snapshot, struct err *err)
{
	const struct qcow2 *leaf = scope->chain->leaf;
	size_t l1_bytes = snapshot->l1_entries * sizeof(uint64_t);
	CLEANUP_FREE uint64_t *l1 = must_calloc(1, l1_bytes + 1);
	CLEANUP_FREE uint64_t *table = must_calloc(1, leaf->header.cluster_size);
	const struct snapshot_walk walk = {
		.scope = scope, .leaf = leaf, .snapshot = snapshot, .table = table};

	if (read_leaf(leaf, l1, l1_bytes, snapshot->l1_offset, "a snapshot's L1 table", err) < 0)
		return -1;
	return check_l1(&walk, l1, err);
}

int snapshots_check(const struct work_scope *scope, struct err *err)
{
	const struct qcow2 *leaf = scope->chain->leaf;
	uint64_t offset = leaf->header.snapshots_offset;
	struct snapshot snapshot;

	for (uint32_t i = 0; i < leaf->header.snapshots; i++) {
		if (read_snapshot(leaf, offset, &snapshot, err) < 0 ||
			check_snapshot(scope, &snapshot, err) < 0)
			return -1;
		offset += snapshot.length;
	}
	return 0;
}
