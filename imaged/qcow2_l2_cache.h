/* SPDX-License-Identifier: Apache-2.0 */
/* L2 tables in memory, in host byte order, found by their offset in the file.  At most 2 MiB an image (but never fewer than two
 * tables), less for small disks; memory is taken when a table comes, and the one not used for longest is overwritten
 * (CLOCK).  Knows nothing of files: the caller fills what l2_cache_add gives it.  Not thread-safe: the image's lock guards it. */
#ifndef SLUICE_IMAGED_QCOW2_L2_CACHE_H
#define SLUICE_IMAGED_QCOW2_L2_CACHE_H

#include <stdint.h>

struct l2_cache;

/* For tables of 1 << (cluster_bits - 3) entries, of which there are at most `tables`. */
struct l2_cache *l2_cache_new(unsigned cluster_bits, uint32_t tables);
void l2_cache_free(struct l2_cache *cache); /* NULL is fine */

/* The table at that offset, or NULL.  Pointers live until the next l2_cache_add or l2_cache_forget. */
uint64_t *l2_cache_find(struct l2_cache *cache, uint64_t table_offset);
/* Room for a table that is not there yet, with old content: the caller fills it at once, or forgets it again. */
uint64_t *l2_cache_add(struct l2_cache *cache, uint64_t table_offset);
void l2_cache_forget(struct l2_cache *cache, uint64_t table_offset);

#endif
