/* SPDX-License-Identifier: Apache-2.0 */
/* Which name a header gets: files in a folder, and a chain that says where they were found. */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "imaged/names.h"
#include "tests/unit/folder.h"
#include "tests/unit/unit.h"

static struct err err;
static struct folder folder;
static struct roots *roots;
static struct chain chain;

/* The leaf FOLDER/leaf; the kept layer is FOLDER/deep/base, called `name` by the layer above. */
static void begin(const char *name)
{
	struct stat status;

	folder = folder_make();
	roots = roots_new();
	ck_assert_int_eq(roots_add(roots, folder.path, &err), 0);
	ck_assert_int_eq(mkdir(folder_name(&folder, "deep"), 0700), 0);
	close(open(folder_name(&folder, "deep/base"), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	close(open(folder_name(&folder, "base"), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	ck_assert_int_eq(stat(folder_name(&folder, "deep/base"), &status), 0);
	chain = (struct chain){.count = 2};
	chain.layers[0].opened_as = must_strdup(folder_name(&folder, "leaf"));
	chain.layers[1] = (struct chain_layer){
		.name = must_strdup(name),
		.path = must_strdup(folder_name(&folder, "deep/base")),
		.format = "raw",
		.device = status.st_dev,
		.inode = status.st_ino,
	};
}

static void end(void)
{
	free(chain.layers[0].opened_as);
	free(chain.layers[1].name);
	free(chain.layers[1].path);
	roots_free(roots);
	folder_remove(&folder);
}

START_TEST(the_name_of_the_layer_above_stays_if_it_still_finds_the_file)
{
	const char *name = NULL;

	begin("deep/base");
	ck_assert_int_eq(names_choose(roots, &chain, 1, NULL, &name, &err), 0);
	ck_assert_str_eq(name, "deep/base");
	end();
}
END_TEST

START_TEST(a_name_that_finds_another_file_or_none_is_replaced_by_the_path)
{
	const char *name = NULL;

	begin("base");
	ck_assert_int_eq(names_choose(roots, &chain, 1, NULL, &name, &err), 0);
	ck_assert_str_eq(name, folder_name(&folder, "deep/base"));
	ck_assert_int_eq(unlink(folder_name(&folder, "base")), 0);
	ck_assert_int_eq(names_choose(roots, &chain, 1, NULL, &name, &err), 0);
	ck_assert_str_eq(name, folder_name(&folder, "deep/base"));
	end();
}
END_TEST

START_TEST(a_name_that_was_asked_for_is_kept_as_it_is_or_refused)
{
	char long_name[1100];
	const char *name = NULL;

	memset(long_name, 'x', sizeof long_name - 1);
	long_name[sizeof long_name - 1] = '\0';
	begin("deep/base");
	ck_assert_int_eq(names_choose(roots, &chain, 1, "./deep/../deep/base", &name, &err), 0);
	ck_assert_str_eq(name, "./deep/../deep/base");
	ck_assert_int_eq(names_choose(roots, &chain, 1, "base", &name, &err), -1);
	ck_assert_msg(strstr(err.text, "very same file"), "%s", err.text);
	ck_assert_int_eq(names_choose(roots, &chain, 1, "nowhere", &name, &err), -1);
	ck_assert_int_eq(names_choose(roots, &chain, 1, long_name, &name, &err), -1);
	ck_assert_msg(strstr(err.text, "longer"), "%s", err.text);
	ck_assert_int_eq(names_choose(roots, &chain, 1, "/etc/passwd", &name, &err), -1);
	ck_assert_int_eq(names_choose(roots, &chain, 1, "json:{}", &name, &err), -1);
	end();
}
END_TEST

UNIT_MAIN("names", the_name_of_the_layer_above_stays_if_it_still_finds_the_file,
	a_name_that_finds_another_file_or_none_is_replaced_by_the_path,
	a_name_that_was_asked_for_is_kept_as_it_is_or_refused)
