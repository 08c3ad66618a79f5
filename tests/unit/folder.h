/* SPDX-License-Identifier: Apache-2.0 */
/* A folder of its own for a test, removed with all that is in it. */
#ifndef SLUICE_TESTS_UNIT_FOLDER_H
#define SLUICE_TESTS_UNIT_FOLDER_H

#include <check.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/attributes.h"
#include "tests/unit/temporary.h"

/* Declared as `CLEANUP(folder_remove) struct folder folder = folder_make();`. */
struct folder {
	char path[64];
};

static inline struct folder folder_make(void)
{
	struct folder folder;

	snprintf(folder.path, sizeof(folder.path), "%s/sluice-unit-XXXXXX", temporary_place());
	ck_assert_ptr_nonnull(mkdtemp(folder.path));
	return folder;
}

static inline int folder_remove_entry(const char *path, const struct stat *status UNUSED,
	int type UNUSED, struct FTW *place UNUSED)
{
	return remove(path);
}

static inline void folder_remove(struct folder *folder)
{
	nftw(folder->path, folder_remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* A name in the folder; static memory, a few at a time. */
static inline const char *folder_name(const struct folder *folder, const char *name)
{
	static char names[8][PATH_MAX];
	static unsigned next;
	char *path = names[next++ % 8];

	snprintf(path, PATH_MAX, "%s/%s", folder->path, name);
	return path;
}

/* "ipc://FOLDER/NAME" */
static inline const char *folder_endpoint(const struct folder *folder, const char *name)
{
	static char names[8][PATH_MAX];
	static unsigned next;
	char *endpoint = names[next++ % 8];

	snprintf(endpoint, PATH_MAX, "ipc://%s/%s", folder->path, name);
	return endpoint;
}

#endif
