/* SPDX-License-Identifier: Apache-2.0 */
/* Persistent bitmaps of other programs in our leaf (specification, "Bitmaps"): what they refer to, and telling their owners
 * that the disk changed without them.  What is in them is never read. */
#ifndef SLUICE_IMAGED_QCOW2_BITMAPS_H
#define SLUICE_IMAGED_QCOW2_BITMAPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/attributes.h"
#include "common/err.h"
#include "imaged/qcow2.h"

struct bitmap_directory {
	uint64_t offset;      /* in the file; 0: there is none */
	unsigned char *bytes; /* owned by the caller: free() */
	size_t length;
	uint32_t count;
};

struct bitmap_entry {
	uint64_t table_offset;
	uint32_t table_entries;
	size_t at, end; /* in the directory */
};

/* Offset 0 in *ret_directory where the image has none, or has declared them inconsistent (autoclear bit 0 not set). */
int MUST_CHECK qcow2_bitmaps_read(
	const struct qcow2 *image, struct bitmap_directory *ret_directory, struct err *err);
/* PURE: the entry at `at`.  0, or -1 and err. */
int MUST_CHECK bitmap_entry_parse(const struct bitmap_directory *directory, size_t at,
	struct bitmap_entry *ret_entry, struct err *err);

/* With the structure lock held, before the first write to the image: every bitmap is marked in-use, and unknown autoclear bits
 * are cleared, durably.  A directory that cannot be read is declared inconsistent. */
int MUST_CHECK qcow2_bitmaps_before_writing(struct qcow2 *image, struct err *err);

#endif
