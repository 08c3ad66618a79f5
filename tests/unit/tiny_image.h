/* SPDX-License-Identifier: Apache-2.0 */
/* qcow2 files made by hand for unit tests, so that their tables can hold whatever nobody would write.
 *
 *   cluster 0 header | 1 refcount table | 2 (refcount block) | 3 L1 table | 4.. L2 tables | data clusters
 *
 * The first `tables` entries of L1 name the L2 tables; all else is zero until tiny_image_store says otherwise. */
#ifndef SLUICE_TESTS_UNIT_TINY_IMAGE_H
#define SLUICE_TESTS_UNIT_TINY_IMAGE_H

#include <check.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "common/io.h"
#include "imaged/qcow2_format.h"

struct tiny_image {
	uint32_t version;
	unsigned cluster_bits;
	uint64_t disk_size;
	uint64_t tables, data_clusters;
	const char *backing_name, *backing_format; /* may be NULL */
};

#define TINY_L1 3
#define TINY_L2 4

static inline uint64_t tiny_cluster(const struct tiny_image *image, uint64_t index)
{
	return index << image->cluster_bits;
}

/* The host offset of the n-th data cluster. */
static inline uint64_t tiny_data(const struct tiny_image *image, uint64_t n)
{
	return tiny_cluster(image, TINY_L2 + image->tables + n);
}

static inline void tiny_image_store(int fd, uint64_t offset, uint64_t value)
{
	value = htobe64(value);
	ck_assert_int_eq(pwrite_full(fd, &value, sizeof(value), offset), 0);
}

/* Sets the entry of the guest cluster with that number; its L2 table must be there. */
static inline void tiny_image_set(
	int fd, const struct tiny_image *image, uint64_t guest_cluster, uint64_t entry)
{
	tiny_image_store(fd, tiny_cluster(image, TINY_L2) + guest_cluster * 8, entry);
}

static inline void tiny_image_backing(
	const struct tiny_image *image, unsigned char *header, size_t at)
{
	size_t format_length = image->backing_format ? strlen(image->backing_format) : 0;

	if (format_length) {
		qcow2_store32(header + at, QCOW2_EXTENSION_BACKING_FORMAT);
		qcow2_store32(header + at + 4, (uint32_t)format_length);
		memcpy(header + at + 8, image->backing_format, format_length);
		at += 8 + (format_length + 7) / 8 * 8;
	}
	if (image->backing_name) {
		qcow2_store64(header + QCOW2_AT_BACKING_NAME_OFFSET, at + 8);
		qcow2_store32(header + QCOW2_AT_BACKING_NAME_LENGTH,
			(uint32_t)strlen(image->backing_name));
		memcpy(header + at + 8, image->backing_name, strlen(image->backing_name));
	}
}

/* Makes the file; a descriptor open for writing, the caller's. */
static inline int tiny_image_make(const char *path, const struct tiny_image *image)
{
	unsigned char header[512] = {0};
	uint64_t span = UINT64_C(1) << (image->cluster_bits * 2 - 3);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	qcow2_store32(header + QCOW2_AT_MAGIC, QCOW2_MAGIC);
	qcow2_store32(header + QCOW2_AT_VERSION, image->version);
	qcow2_store32(header + QCOW2_AT_CLUSTER_BITS, image->cluster_bits);
	qcow2_store64(header + QCOW2_AT_DISK_SIZE, image->disk_size);
	qcow2_store32(
		header + QCOW2_AT_L1_ENTRIES, (uint32_t)((image->disk_size + span - 1) / span));
	qcow2_store64(header + QCOW2_AT_L1_OFFSET, tiny_cluster(image, TINY_L1));
	qcow2_store64(header + QCOW2_AT_REFCOUNT_TABLE_OFFSET, tiny_cluster(image, 1));
	qcow2_store32(header + QCOW2_AT_REFCOUNT_TABLE_CLUSTERS, 1);
	if (image->version == 3) {
		qcow2_store32(header + QCOW2_AT_REFCOUNT_ORDER, 4);
		qcow2_store32(header + QCOW2_AT_HEADER_LENGTH, QCOW2_V3_LENGTH);
	}
	tiny_image_backing(image, header, image->version == 3 ? QCOW2_V3_LENGTH : QCOW2_V2_LENGTH);
	ck_assert_int_eq(ftruncate(fd, (off_t)tiny_data(image, image->data_clusters)), 0);
	ck_assert_int_eq(pwrite_full(fd, header, sizeof(header), 0), 0);
	for (uint64_t i = 0; i < image->tables; i++)
		tiny_image_store(
			fd, tiny_cluster(image, TINY_L1) + i * 8, tiny_cluster(image, TINY_L2 + i));
	return fd;
}

#endif
