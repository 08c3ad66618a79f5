/* SPDX-License-Identifier: Apache-2.0 */
/* The first cluster of a writable image, in memory: the only way by which its header is changed.
 *
 * What must change together is changed by one write of one 512-byte sector; the bytes that such a write makes visible are
 * written and flushed before it.  `lock` is the structure lock: whoever changes the header, makes a durable zone or
 * cuts the file holds it.  It is taken before the image's lock, never after, and may be held across flushes. */
#ifndef SLUICE_IMAGED_QCOW2_HEAD_H
#define SLUICE_IMAGED_QCOW2_HEAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/attributes.h"
#include "common/err.h"
#include "imaged/qcow2.h"

#define HEAD_SECTOR 512

struct zone_window {
	uint64_t offset, length; /* bytes of the file */
};
#define ZONE_WINDOWS_MAX 4

struct qcow2_head {
	pthread_mutex_t lock;
	unsigned char *bytes; /* owned; as in the file */
	size_t length;	      /* the first cluster, at most QCOW2_HEADER_BYTES_MAX */
	size_t hint_at;	      /* of our zone extension's own header; 0: there is none */
	unsigned hint_room;   /* windows that it has room for */
	bool hint_impossible; /* there is no room, or no end marker */
	bool has_promise; /* the last backing file that qcow2_check_backing said yes to: its room is kept free */
	char promised_name[QCOW2_NAME_MAX + 1];
	char promised_format[QCOW2_FORMAT_MAX + 1];
};

struct head_extension {
	uint32_t magic, length;
	size_t at; /* of its own header */
};

/* PURE: the extension whose header stands at `at`.  False where there is none: the end marker, or the end of the bytes. */
bool head_extension_at(
	const unsigned char *bytes, size_t length, size_t at, struct head_extension *ret_extension);
/* PURE: where the next one begins. */
size_t head_extension_end(const struct head_extension *extension);

int MUST_CHECK qcow2_head_load(struct qcow2 *image, struct err *err);
void qcow2_head_free(struct qcow2_head *head);

/* Offset of the first extension.  Finds one by its magic; false where there is none. */
size_t head_extensions_begin(const struct qcow2 *image);
bool head_extension_find(
	const struct qcow2 *image, uint32_t magic, struct head_extension *ret_extension);

/* Writes what is in memory of [at, at+length); a failure fails the image.  `at` and the end within one sector: one write. */
int MUST_CHECK qcow2_head_write(struct qcow2 *image, size_t at, size_t length, struct err *err);

/* PURE: a place of `length` bytes behind the extensions, and behind `keep` bytes after them, that does not overlap the
 * backing file's name as it is now; 0 where there is none.  `header` was parsed from the first `room` bytes. */
size_t head_place_for_name(
	const struct qcow2_header *header, size_t room, size_t keep, size_t length);

/* PURE: how the head looks with another backing file: the bytes (to be freed) differ from the old ones in the first sector and
 * in the name at `name_at`, which does not overlap the old name unless it is the same.  0, or -1 and err: it cannot be done
 * so.  (qcow2_switch.c) */
int MUST_CHECK head_plan_backing(const unsigned char *bytes, size_t length,
	const struct qcow2_header *header, const char *name, const char *format,
	unsigned char **ret_bytes, size_t *ret_name_at, struct err *err);

/* Writes `name` to `at` and flushes it; the header does not yet say so. */
int MUST_CHECK qcow2_head_write_name(
	struct qcow2 *image, size_t at, const char *name, struct err *err);

/* The fields of the new refcount table, with one write.  For qcow2_refcount_grow.c, which changes image->header. */
int MUST_CHECK qcow2_head_set_refcount_table(
	struct qcow2 *image, uint64_t offset, uint32_t clusters, struct err *err);
/* Feature bits, with one write; image->header follows. */
int MUST_CHECK qcow2_head_set_features(
	struct qcow2 *image, uint64_t incompatible, uint64_t autoclear, struct err *err);

/* Names these windows in our extension, which is put into the header first where it is missing (then with flushes of its own); the
 * caller flushes.  No window: the extension goes.  Where the header has no room this does nothing: leaks after a crash are
 * then not named.  More windows than there is room for are joined. */
int MUST_CHECK qcow2_head_set_windows(
	struct qcow2 *image, const struct zone_window *windows, unsigned count, struct err *err);
/* What the extension names now. */
unsigned qcow2_head_windows(const struct qcow2 *image, struct zone_window *ret_windows);
/* PURE: joins neighbours, and the closest ones while there are more than `most`; how many are left.  Sorts. */
unsigned zone_windows_join(struct zone_window *windows, unsigned count, unsigned most);

#endif
