/* SPDX-License-Identifier: Apache-2.0 */
/* PURE: the bytes of a qcow2 header <-> a checked struct, or the reason why not.  (qcow2 specification, "Header", "Header
 * extensions".)  No I/O here; every offset and size is checked against the file's length and against each other before it is
 * believed. */
#ifndef SLUICE_IMAGED_QCOW2_HEADER_H
#define SLUICE_IMAGED_QCOW2_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/attributes.h"
#include "common/err.h"

#define QCOW2_NAME_MAX   1023
#define QCOW2_FORMAT_MAX 31

struct qcow2_header {
	uint32_t version; /* 2 or 3 */
	unsigned cluster_bits;
	uint64_t cluster_size;
	uint64_t disk_size; /* guest bytes */
	uint32_t l1_entries;
	uint64_t l1_offset;
	uint64_t refcount_table_offset;
	uint32_t refcount_table_clusters;
	unsigned refcount_order; /* width is 1 << order bits */
	uint32_t snapshots;
	uint64_t snapshots_offset;
	uint64_t incompatible, compatible, autoclear; /* feature bits */
	uint32_t header_length;
	bool zstd; /* compression type of compressed clusters */
	/* backing file: empty strings where there is none */
	char backing_name[QCOW2_NAME_MAX + 1];
	char backing_format[QCOW2_FORMAT_MAX + 1]; /* empty: the header names none */
	uint64_t backing_name_offset;   /* 0: none */
	uint64_t extensions_end;        /* offset of the end marker, 0 where there is none */
	uint64_t backing_format_offset; /* of the format extension's own header, 0 where there is none */
	uint64_t zone_hint_offset;      /* of our extension's own header, 0 where there is none (qcow2_zone.h) */
	uint32_t zone_hint_length;      /* bytes of its data */
	uint64_t bitmaps_offset;        /* of the bitmaps extension's own header, 0 where there is none */
	uint32_t bitmaps_length;        /* bytes of its content */
	bool has_bitmaps, has_unknown_extensions, has_encryption_header;
};

/* Reads the first cluster (or 64 KiB, whichever is less; at least 512 bytes) of a file of `file_size` bytes; more bytes than
 * that are no harm.  0; or -1 and err (kind ERROR_CLASS_NOT_SUPPORTED for a feature that is refused by name: encryption,
 * external data file, extended L2, unknown incompatible bits by number, the corrupt bit). A dirty bit is no error here. */
int MUST_CHECK qcow2_header_parse(const void *bytes, size_t length, uint64_t file_size, struct qcow2_header *ret_header,
	struct err *err);

/* Whether the bytes begin with the magic of a qcow2 file, of whatever version. */
bool qcow2_header_is(const void *bytes, size_t length);

#define QCOW2_INCOMPATIBLE_DIRTY   (UINT64_C(1) << 0)
#define QCOW2_INCOMPATIBLE_CORRUPT (UINT64_C(1) << 1)
#define QCOW2_COMPATIBLE_LAZY      (UINT64_C(1) << 0)
#define QCOW2_AUTOCLEAR_BITMAPS    (UINT64_C(1) << 0)

#endif
