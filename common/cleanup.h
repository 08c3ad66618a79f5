/* SPDX-License-Identifier: Apache-2.0 */
/* Scope-bound ownership.  A local that owns is declared with CLEANUP(function_cleanup); it is
 * handed over once, at the very end, with steal().  DEFINE_CLEANUP makes the adapter from a
 * destructor that takes the pointer itself. */
#ifndef SLUICE_COMMON_CLEANUP_H
#define SLUICE_COMMON_CLEANUP_H

#include <stdlib.h>
#include <unistd.h>

#include "common/attributes.h"

#define CLEANUP(adapter) __attribute__((cleanup(adapter)))

/* DEFINE_CLEANUP(chain, chain_free) makes chain_cleanup() for a local declared as
 * `CLEANUP(chain_cleanup) struct chain *chain = NULL;` */
#define DEFINE_CLEANUP(name, destructor)                               \
	static inline UNUSED void name##_cleanup(struct name **object) \
	{                                                              \
		destructor(*object);                                   \
	}

#define CLEANUP_FREE  CLEANUP(cleanup_free)
#define CLEANUP_CLOSE CLEANUP(cleanup_close)

static inline UNUSED void cleanup_free(void *pointer_to_pointer)
{
	free(*(void **)pointer_to_pointer);
}

/* Closes a descriptor unless it is negative. */
static inline UNUSED void cleanup_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

/* Takes the pointer out of the variable that would free it. */
#define steal(pointer_to_pointer)                                                  \
	__extension__({                                                            \
		__typeof__(*(pointer_to_pointer)) stolen_ = *(pointer_to_pointer); \
		*(pointer_to_pointer) = NULL;                                      \
		stolen_;                                                           \
	})

#endif
