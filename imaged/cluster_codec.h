/* SPDX-License-Identifier: Apache-2.0 */
/* PURE: one compressed cluster made plain, in memory. */
#ifndef SLUICE_IMAGED_CLUSTER_CODEC_H
#define SLUICE_IMAGED_CLUSTER_CODEC_H

#include <stddef.h>

#include "common/attributes.h"
#include "common/err.h"
#include "imaged/extent.h"

/* Fills exactly `plain_length` bytes from a stream that may end before `length` bytes (what follows it is not looked at).  0;
 * or -1 and err where the stream is broken or too short.  Any thread. */
int MUST_CHECK cluster_decompress(enum extent_codec codec, const void *compressed, size_t length, void *ret_plain,
	size_t plain_length, struct err *err);

#endif
