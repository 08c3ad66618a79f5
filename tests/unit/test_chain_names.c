/* SPDX-License-Identifier: Apache-2.0 */
/* Names in headers become paths or advice. */
#include <string.h>

#include "common/cleanup.h"
#include "imaged/chain_names.h"
#include "schemas/errors.gen.h"
#include "tests/unit/unit.h"

static struct err err;

static void resolves(const char *from, const char *name, const char *path)
{
	CLEANUP_FREE char *found = NULL;

	ck_assert_int_eq(chain_name_resolve(from, name, "raw", &found, &err), 0);
	ck_assert_str_eq(found, path);
}

static void refuses(const char *name, const char *format, unsigned kind, const char *words)
{
	char *found = NULL;

	ck_assert_int_eq(chain_name_resolve("/a/leaf.qcow2", name, format, &found, &err), -1);
	ck_assert_ptr_null(found);
	ck_assert_uint_eq(err.kind, kind);
	ck_assert_msg(strstr(err.text, words), "\"%s\" is not in \"%s\"", words, err.text);
}

START_TEST(names_are_relative_to_the_folder_of_the_file_that_names)
{
	resolves("/a/b/leaf.qcow2", "base.raw", "/a/b/base.raw");
	resolves("/a/b/leaf.qcow2", "../base.raw", "/a/b/../base.raw");
	resolves("/a/b/leaf.qcow2", "/base.raw", "/base.raw");
	resolves("/leaf.qcow2", "base.raw", "/base.raw");
	resolves("leaf.qcow2", "base.raw", "base.raw");
	resolves("/a/leaf.qcow2", "file:/b/base.raw", "/b/base.raw");
	resolves("/a/leaf.qcow2", "./odd:name", "/a/./odd:name");
}
END_TEST

START_TEST(missing_format_gets_the_line_to_run)
{
	refuses("base.raw", "", ERROR_CLASS_GENERIC_ERROR,
		"qemu-img rebase -u -F FORMAT -b 'base.raw' '/a/leaf.qcow2'");
	refuses("it's.raw", "", ERROR_CLASS_GENERIC_ERROR, "-b 'it'\\''s.raw' '/a/leaf.qcow2'");
}
END_TEST

START_TEST(json_and_protocols_are_refused)
{
	refuses("json:{\"driver\":\"raw\"}", "raw", ERROR_CLASS_GENERIC_ERROR,
		"qemu-img rebase -u");
	refuses("nbd://host/export", "raw", ERROR_CLASS_NOT_SUPPORTED, "nbd:");
	refuses("nbd+unix:///x?socket=/s", "raw", ERROR_CLASS_NOT_SUPPORTED, "nbd+unix:");
	refuses("odd:name", "raw", ERROR_CLASS_NOT_SUPPORTED, "odd:");
	refuses("file:base.raw", "raw", ERROR_CLASS_NOT_SUPPORTED, "file:");
}
END_TEST

START_TEST(other_formats_are_refused_by_name)
{
	refuses("base.vmdk", "vmdk", ERROR_CLASS_NOT_SUPPORTED, "vmdk");
	refuses("base.raw", "Raw", ERROR_CLASS_NOT_SUPPORTED, "Raw");
}
END_TEST

UNIT_MAIN("chain_names", names_are_relative_to_the_folder_of_the_file_that_names,
	missing_format_gets_the_line_to_run, json_and_protocols_are_refused,
	other_formats_are_refused_by_name)
