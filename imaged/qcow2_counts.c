/* SPDX-License-Identifier: Apache-2.0 */
/* A window at a time, so that an image of any size is counted in the same memory; each window is a walk of its own. */
#include "imaged/qcow2_counts.h"

#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "imaged/qcow2_walk.h"

/* Why this cluster cannot be referred to once more, or NULL. */
static const char *conflict(const struct cluster_count *cluster, const struct reference *reference)
{
	if (cluster->count == 0)
		return NULL;
	if (cluster->kind != reference->kind)
		return "is used for two different things";
	switch (reference->kind) {
	case REFERENCE_METADATA:
		return "is used twice as metadata";
	case REFERENCE_L2_TABLE:
	case REFERENCE_CLUSTER:
		if (reference->tree < UINT16_MAX && cluster->last_tree == reference->tree + 1)
			return "is used twice in one disk";
		return NULL;
	case REFERENCE_COMPRESSED:
		return NULL;
	}
	return NULL;
}

static int count_reference(void *owner, const struct reference *reference, struct err *err)
{
	struct reference_counts *counts = owner;
	unsigned bits = counts->image->header.cluster_bits;
	uint64_t first = reference->offset >> bits;
	uint64_t end = ((reference->offset + reference->length - 1) >> bits) + 1;

	if (first < counts->first)
		first = counts->first;
	if (end > counts->first + counts->count)
		end = counts->first + counts->count;
	for (uint64_t i = first; i < end; i++) {
		struct cluster_count *cluster = &counts->clusters[i - counts->first];
		const char *fault = counts->takes_faults ? NULL : conflict(cluster, reference);

		if (fault)
			return err_set(err, "%s is corrupt: the cluster at 0x%llx (%s) %s",
				counts->image->path, (unsigned long long)(i << bits),
				reference_kind_name(reference->kind), fault);
		cluster->count += cluster->count < UINT32_MAX;
		cluster->kind = (uint8_t)reference->kind;
		cluster->last_tree =
			reference->tree < UINT16_MAX ? (uint16_t)(reference->tree + 1) : 0;
		cluster->is_active |= reference->tree == 0;
	}
	return 0;
}

int reference_counts_walk(struct reference_counts *counts, struct qcow2 *image, uint64_t first,
	uint64_t count, struct err *err)
{
	if (counts->clusters && counts->count >= count) {
		memset(counts->clusters, 0, count * sizeof(*counts->clusters));
	} else {
		free(counts->clusters);
		counts->clusters = must_calloc(count, sizeof(*counts->clusters));
	}
	counts->image = image;
	counts->first = first;
	counts->count = count;
	return qcow2_walk(image, counts->takes_faults, count_reference, counts, err);
}

void reference_counts_done(struct reference_counts *counts)
{
	free(counts->clusters);
	counts->clusters = NULL;
}
