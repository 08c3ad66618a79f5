/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers as people read them. */
#ifndef SLUICE_CLIENTS_FORMAT_H
#define SLUICE_CLIENTS_FORMAT_H

#include <stdint.h>

struct text {
	char is[32];
};

struct text format_bytes(uint64_t bytes);	      /* "512 B", "1.5 GiB" */
struct text format_rate(uint64_t bytes_per_second);   /* "412 MiB/s" */
struct text format_seconds(uint64_t seconds);	      /* "42 s", "3 min 20 s", "2 h 5 min" */
struct text format_share(uint64_t part, uint64_t of); /* "43%"; 100% only when it is all */

#endif
