/* SPDX-License-Identifier: Apache-2.0 */
#include "imaged/qcow2_vet.h"

#include <stdlib.h>

#include "common/check.h"
#include "imaged/qcow2_refcount.h"
#include "imaged/qcow2_zone.h"

static int compare(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

	return (a > b) - (a < b);
}

static int behind_the_end(
	const struct qcow2 *image, const char *what, uint64_t offset, struct err *err)
{
	return err_set(err, "%s is corrupt: the %s at offset 0x%llx lies outside the file",
		image->path, what, (unsigned long long)offset);
}

static int add_table(struct qcow2 *image, struct qcow2_vet *vet, uint64_t offset, struct err *err)
{
	uint64_t cluster = offset >> image->header.cluster_bits;

	if (offset == 0)
		return 0;
	if (cluster >= image->zones->begin)
		return behind_the_end(image, "table", offset, err);
	vet->tables[vet->count++] = cluster;
	return 0;
}

/* All clusters that these bytes touch; none where the header names nothing. */
static void add_range(
	const struct qcow2 *image, struct qcow2_vet *vet, uint64_t offset, uint64_t length)
{
	unsigned bits = image->header.cluster_bits;

	for (uint64_t i = offset >> bits; length > 0 && i <= (offset + length - 1) >> bits; i++)
		vet->tables[vet->count++] = i;
}

int qcow2_vet_load(struct qcow2 *image, struct err *err)
{
	const struct qcow2_header *header = &image->header;
	uint64_t l1_entries = header->l1_entries, blocks = image->refcounts->entries;
	uint64_t l1_bytes = l1_entries * 8, counts_bytes = blocks * 8;
	struct qcow2_vet *vet = must_calloc(1, sizeof(*vet));
	int r = 0;

	vet->tables = must_calloc(
		l1_entries + blocks + ((l1_bytes + counts_bytes) >> header->cluster_bits) + 8,
		sizeof(*vet->tables));
	add_range(image, vet, 0, 1);
	add_range(image, vet, header->l1_offset, l1_bytes);
	add_range(image, vet, header->refcount_table_offset, counts_bytes);
	add_range(image, vet, header->snapshots_offset, header->snapshots ? 1 : 0);
	vet->vetted = must_calloc(l1_entries / 8 + 1, 1);
	for (uint64_t i = 0; i < l1_entries && r == 0; i++)
		r = add_table(image, vet, image->l1[i] & QCOW2_OFFSET_MASK, err);
	for (uint64_t i = 0; i < blocks && r == 0; i++)
		r = add_table(image, vet, image->refcounts->table[i], err);
	qsort(vet->tables, vet->count, sizeof(*vet->tables), compare);
	if (r < 0) {
		qcow2_vet_free(vet);
		return -1;
	}
	image->vet = vet;
	return 0;
}

void qcow2_vet_free(struct qcow2_vet *vet)
{
	if (!vet)
		return;
	free(vet->tables);
	free(vet->vetted);
	free(vet);
}

/* The last host cluster that the entry names, compressed or not. */
static uint64_t last_cluster(const struct qcow2 *image, uint64_t entry)
{
	struct run run = qcow2_entry_clusters(image, entry);

	return run.count ? run.first + run.count - 1 : 0;
}

int qcow2_vet_table(struct qcow2 *image, uint64_t index, const uint64_t *table, struct err *err)
{
	struct qcow2_vet *vet = image->vet;
	uint64_t entries = image->header.cluster_size / 8;

	if (!vet || (vet->vetted[index / 8] >> (index % 8) & 1))
		return 0;
	for (uint64_t i = 0; i < entries; i++) {
		if (last_cluster(image, table[i]) >= image->zones->begin)
			return behind_the_end(image, "cluster", table[i] & QCOW2_OFFSET_MASK, err);
	}
	qcow2_vet_made(image, index);
	return 0;
}

void qcow2_vet_made(struct qcow2 *image, uint64_t index)
{
	if (image->vet)
		image->vet->vetted[index / 8] |= (unsigned char)(1U << (index % 8));
}

static bool is_table(const struct qcow2_vet *vet, uint64_t cluster)
{
	return bsearch(&cluster, vet->tables, vet->count, sizeof(cluster), compare) != NULL;
}

int qcow2_vet_entry(struct qcow2 *image, uint64_t entry, struct err *err)
{
	struct run run = qcow2_entry_clusters(image, entry);

	if (run.count == 0)
		return 0;
	if (qcow2_check_entry(image, entry, err) < 0)
		return -1;
	for (uint64_t i = run.first; i < run.first + run.count && image->vet; i++) {
		if (is_table(image->vet, i))
			return err_set(err,
				"%s is corrupt: a guest cluster lies in the table at offset 0x%llx",
				image->path, (unsigned long long)(i << image->header.cluster_bits));
	}
	return 0;
}
