/* SPDX-License-Identifier: Apache-2.0 */
/* What a declaration can promise to the compiler, by name. */
#ifndef SLUICE_COMMON_ATTRIBUTES_H
#define SLUICE_COMMON_ATTRIBUTES_H

#define MUST_CHECK		 __attribute__((warn_unused_result))
#define PRINTF_LIKE(text, first) __attribute__((format(printf, text, first)))
#define UNUSED			 __attribute__((unused))
#define NORETURN		 __attribute__((noreturn))

#endif
