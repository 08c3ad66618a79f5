/* SPDX-License-Identifier: Apache-2.0 */
/* getrandom(2), which waits for the kernel's pool at boot and never fails after. */
#include "common/random.h"

#include <errno.h>
#include <sys/random.h>
#include <sys/types.h>

#include "common/check.h"

uint64_t random_id(void)
{
	uint64_t bits;
	ssize_t n;

	do
		n = getrandom(&bits, sizeof bits, 0);
	while (n < 0 && errno == EINTR);
	bug_if(n != (ssize_t)sizeof bits);
	return (bits & ((UINT64_C(1) << 62) - 1)) + 1;
}
