/* SPDX-License-Identifier: Apache-2.0 */
/* The classes of errors that imaged gives its failures (struct err's `kind`). */
#ifndef SLUICE_IMAGED_ERROR_KINDS_H
#define SLUICE_IMAGED_ERROR_KINDS_H

#if __has_include("schemas/errors.gen.h")
#include "schemas/errors.gen.h"
#else
enum error_class {
	ERROR_CLASS_GENERIC_ERROR = 0,
	ERROR_CLASS_DEVICE_IN_USE = 2,
	ERROR_CLASS_NOT_SUPPORTED = 3,
	ERROR_CLASS_BASE_NOT_FOUND = 5,
};
#endif

#endif
