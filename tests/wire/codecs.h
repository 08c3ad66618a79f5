/* SPDX-License-Identifier: Apache-2.0 */
/* Every generated decoder and encoder by name, so that tests can walk over all of them. */
#ifndef SLUICE_TESTS_WIRE_CODECS_H
#define SLUICE_TESTS_WIRE_CODECS_H

#include "schemas/wire.h"

struct tested_codec {
	const char *name;
	/* Decodes, then encodes what it got: 0, or -1 and err. */
	int (*round_trip)(const void *bytes, size_t length, struct wire_memory *memory,
		struct wire_buffer *buffer, struct err *err);
};

extern const struct tested_codec tested_codecs[];
extern const size_t tested_codecs_count;

#endif
