/* SPDX-License-Identifier: Apache-2.0 */
/* Chains of tiny images: opened, refused, searched, looked up. */
#include <stdio.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "imaged/chain.h"
#include "schemas/errors.gen.h"
#include "tests/unit/folder.h"
#include "tests/unit/tiny_image.h"
#include "tests/unit/unit.h"

DEFINE_CLEANUP(chain, chain_free)
DEFINE_CLEANUP(roots, roots_free)

#define CLUSTER 512u

static struct err err;

static struct tiny_image overlay(uint64_t clusters, const char *backing, const char *format)
{
	return (struct tiny_image){.version = 3,
		.cluster_bits = 9,
		.disk_size = clusters * CLUSTER,
		.tables = 1,
		.data_clusters = 4,
		.backing_name = backing,
		.backing_format = format};
}

static void make_overlay(const struct folder *folder, const char *name, uint64_t clusters,
	const char *backing, const char *format)
{
	struct tiny_image image = overlay(clusters, backing, format);

	close(tiny_image_make(folder_name(folder, name), &image));
}

static void make_raw(const struct folder *folder, const char *name, size_t size)
{
	CLEANUP_FREE char *bytes = malloc(size);
	int fd = open(folder_name(folder, name), O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	memset(bytes, 'r', size);
	ck_assert_int_eq(pwrite_full(fd, bytes, size, 0), 0);
	close(fd);
}

static struct chain *open_chain(const struct folder *folder, const char *name)
{
	CLEANUP(roots_cleanup) struct roots *roots = roots_new();
	struct chain *chain = NULL;

	ck_assert_int_eq(roots_add(roots, folder->path, &err), 0);
	ck_assert_msg(
		chain_open(roots, folder_name(folder, name), "qcow2", false, &chain, &err) == 0,
		"%s", err.text);
	return chain;
}

static void refuses(const struct folder *folder, const char *name, const char *format,
	unsigned kind, const char *words)
{
	CLEANUP(roots_cleanup) struct roots *roots = roots_new();
	struct chain *chain = NULL;

	ck_assert_int_eq(roots_add(roots, folder->path, &err), 0);
	ck_assert_int_eq(
		chain_open(roots, folder_name(folder, name), format, false, &chain, &err), -1);
	ck_assert_ptr_null(chain);
	ck_assert_msg(strstr(err.text, words), "\"%s\" is not in \"%s\"", words, err.text);
	ck_assert_uint_eq(err.kind, kind);
}

/* Three layers: leaf of 10 clusters, mid of 4, raw base of 10; leaf holds cluster 0, mid cluster 1. */
static void make_three(const struct folder *folder)
{
	struct tiny_image leaf = overlay(10, "mid.qcow2", "qcow2"),
			  mid = overlay(4, "base.raw", "raw");
	int fd;

	make_raw(folder, "base.raw", 10 * CLUSTER);
	fd = tiny_image_make(folder_name(folder, "mid.qcow2"), &mid);
	tiny_image_set(fd, &mid, 1, tiny_data(&mid, 0));
	close(fd);
	fd = tiny_image_make(folder_name(folder, "leaf.qcow2"), &leaf);
	tiny_image_set(fd, &leaf, 0, tiny_data(&leaf, 0));
	close(fd);
}

static void expect(struct chain *chain, size_t first, size_t end, uint64_t cluster,
	enum extent_kind kind, uint64_t clusters, unsigned layer, bool past_end)
{
	struct extent extent;

	ck_assert_int_eq(chain_map(chain, first, end, cluster * CLUSTER, (10 - cluster) * CLUSTER,
				 &extent, &err),
		0);
	ck_assert_int_eq(extent.kind, kind);
	ck_assert_uint_eq(extent.length, clusters * CLUSTER);
	ck_assert_uint_eq(extent.layer, layer);
	ck_assert_int_eq(extent.past_end, past_end);
}

START_TEST(first_layer_that_says_something_is_believed)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	make_three(&folder);
	CLEANUP(chain_cleanup) struct chain *chain = open_chain(&folder, "leaf.qcow2");

	ck_assert_uint_eq(chain->count, 3);
	ck_assert_uint_eq(chain->size, 10 * CLUSTER);
	ck_assert_ptr_nonnull(chain->leaf);
	ck_assert_str_eq(chain->layers[1].name, "mid.qcow2");
	ck_assert_str_eq(chain->layers[1].path, folder_name(&folder, "mid.qcow2"));
	ck_assert_str_eq(chain->layers[2].format, "raw");
	ck_assert_uint_eq(chain->layers[1].size, 4 * CLUSTER);
	expect(chain, 0, 3, 0, EXTENT_DATA, 1, 0, false);
	expect(chain, 0, 3, 1, EXTENT_DATA, 1, 1, false);
	expect(chain, 0, 3, 2, EXTENT_DATA, 2, 2, false);
}
END_TEST

START_TEST(end_of_a_short_layer_hides_what_is_below)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	make_three(&folder);
	CLEANUP(chain_cleanup) struct chain *chain = open_chain(&folder, "leaf.qcow2");

	expect(chain, 0, 3, 4, EXTENT_ZERO, 6, 1, true);
	expect(chain, 1, 3, 7, EXTENT_ZERO, 3, 1, true);
	expect(chain, 2, 3, 7, EXTENT_DATA, 3, 2, false);
}
END_TEST

START_TEST(what_no_layer_of_a_part_holds_is_absent)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	make_three(&folder);
	CLEANUP(chain_cleanup) struct chain *chain = open_chain(&folder, "leaf.qcow2");

	expect(chain, 0, 1, 1, EXTENT_ABSENT, 9, 1, false);
	expect(chain, 0, 2, 2, EXTENT_ABSENT, 2, 2, false);
	expect(chain, 1, 1, 0, EXTENT_ABSENT, 10, 1, false);
}
END_TEST

START_TEST(dropped_layers_leave_the_rest_in_place)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	make_three(&folder);
	CLEANUP(chain_cleanup) struct chain *chain = open_chain(&folder, "leaf.qcow2");

	chain_drop(chain, 2, "./base.raw");

	ck_assert_uint_eq(chain->count, 2);
	ck_assert_str_eq(chain->layers[1].name, "./base.raw");
	expect(chain, 0, 2, 7, EXTENT_DATA, 3, 1, false);
	chain_drop(chain, 2, "");
	ck_assert_uint_eq(chain->count, 1);
	expect(chain, 0, 1, 7, EXTENT_ABSENT, 3, 1, false);
}
END_TEST

START_TEST(base_is_found_by_string_by_path_or_by_file)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	make_three(&folder);
	ck_assert_int_eq(mkdir(folder_name(&folder, "d"), 0700), 0);
	ck_assert_int_eq(
		link(folder_name(&folder, "base.raw"), folder_name(&folder, "d/other")), 0);
	CLEANUP(chain_cleanup) struct chain *chain = open_chain(&folder, "leaf.qcow2");

	ck_assert_int_eq(chain_find(chain, "mid.qcow2", &err), 1);
	ck_assert_int_eq(chain_find(chain, "base.raw", &err), 2);
	ck_assert_int_eq(chain_find(chain, "./d/../base.raw", &err), 2);
	ck_assert_int_eq(chain_find(chain, "d/other", &err), 2);
	ck_assert_int_eq(chain_find(chain, folder_name(&folder, "mid.qcow2"), &err), 1);
	ck_assert_int_eq(chain_find(chain, "leaf.qcow2", &err), -1);
	ck_assert_uint_eq(err.kind, ERROR_CLASS_BASE_NOT_FOUND);
	ck_assert_int_eq(chain_find(chain, "none", &err), -1);
}
END_TEST

START_TEST(same_name_in_two_folders_means_the_one_beside_the_leaf)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	ck_assert_int_eq(mkdir(folder_name(&folder, "d"), 0700), 0);
	make_overlay(&folder, "d/base", 4, NULL, NULL);
	make_overlay(&folder, "d/mid", 4, "base", "qcow2");
	make_overlay(&folder, "base", 4, "d/mid", "qcow2");
	make_overlay(&folder, "leaf", 4, "base", "qcow2");
	CLEANUP(chain_cleanup) struct chain *chain = open_chain(&folder, "leaf");

	ck_assert_uint_eq(chain->count, 4);
	ck_assert_int_eq(chain_find(chain, "base", &err), 1);
	ck_assert_int_eq(chain_find(chain, "d/base", &err), 3);
}
END_TEST

START_TEST(links_are_followed_but_names_start_from_where_the_link_is)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	ck_assert_int_eq(mkdir(folder_name(&folder, "d"), 0700), 0);
	make_overlay(&folder, "d/leaf", 4, "base.raw", "raw");
	make_raw(&folder, "base.raw", 100);
	ck_assert_int_eq(symlink("d/leaf", folder_name(&folder, "link")), 0);
	CLEANUP(chain_cleanup) struct chain *chain = open_chain(&folder, "link");

	ck_assert_str_eq(chain->layers[0].path, folder_name(&folder, "d/leaf"));
	ck_assert_str_eq(chain->layers[1].path, folder_name(&folder, "base.raw"));
}
END_TEST

START_TEST(loops_are_refused)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();

	make_overlay(&folder, "self", 4, "self", "qcow2");
	refuses(&folder, "self", "qcow2", 0, "loop");
	make_overlay(&folder, "a", 4, "b", "qcow2");
	make_overlay(&folder, "b", 4, "c", "qcow2");
	ck_assert_int_eq(link(folder_name(&folder, "a"), folder_name(&folder, "c")), 0);
	refuses(&folder, "a", "qcow2", 0, "loop");
}
END_TEST

START_TEST(chain_of_128_files_under_the_leaf_opens_and_of_129_does_not)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	char name[16], backing[16];
	struct chain *chain;

	make_overlay(&folder, "0", 4, NULL, NULL);
	for (int i = 1; i <= 129; i++) {
		snprintf(name, sizeof(name), "%d", i);
		snprintf(backing, sizeof(backing), "%d", i - 1);
		make_overlay(&folder, name, 4, backing, "qcow2");
	}
	chain = open_chain(&folder, "128");
	ck_assert_uint_eq(chain->count, 129);
	chain_free(chain);
	refuses(&folder, "129", "qcow2", 0, "more than 128 files");
}
END_TEST

START_TEST(names_that_lead_nowhere_are_refused_with_who_named_them)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();

	make_overlay(&folder, "a", 4, "missing", "raw");
	refuses(&folder, "a", "qcow2", 0, "missing");
	make_overlay(&folder, "b", 4, "/etc/hostname", "raw");
	refuses(&folder, "b", "qcow2", 0, "--root");
	make_overlay(&folder, "c", 4, "a", NULL);
	refuses(&folder, "c", "qcow2", 0, "qemu-img rebase -u -F FORMAT");
	make_overlay(&folder, "d", 4, "nbd://x/", "raw");
	refuses(&folder, "d", "qcow2", ERROR_CLASS_NOT_SUPPORTED, "nbd:");
	make_raw(&folder, "raw", 5000);
	make_overlay(&folder, "e", 4, "raw", "qcow2");
	refuses(&folder, "e", "qcow2", 0, "not in qcow2 format");
	refuses(&folder, "e", "vmdk", ERROR_CLASS_NOT_SUPPORTED, "vmdk");
}
END_TEST

START_TEST(header_is_never_believed_about_a_file_that_is_called_raw)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	make_overlay(&folder, "inner", 4, "/etc/hostname", "raw");
	make_overlay(&folder, "leaf", 4, "inner", "raw");
	CLEANUP(chain_cleanup) struct chain *chain = open_chain(&folder, "leaf");

	ck_assert_uint_eq(chain->count, 2);
	ck_assert_str_eq(chain->layers[1].format, "raw");
}
END_TEST

START_TEST(leaf_without_a_format_is_qcow2_by_its_magic_or_raw_and_read_only)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	CLEANUP(roots_cleanup) struct roots *roots = roots_new();
	CLEANUP(chain_cleanup) struct chain *raw = NULL, *image = NULL, *said = NULL;

	ck_assert_int_eq(roots_add(roots, folder.path, &err), 0);
	make_overlay(&folder, "image", 4, NULL, NULL);
	make_raw(&folder, "raw", 100);
	make_raw(&folder, "raw2", 100);

	ck_assert_int_eq(
		chain_open(roots, folder_name(&folder, "image"), NULL, false, &image, &err), 0);
	ck_assert_ptr_nonnull(image->leaf);
	ck_assert(!image->read_only);
	ck_assert_int_eq(
		chain_open(roots, folder_name(&folder, "raw"), NULL, false, &raw, &err), 0);
	ck_assert_ptr_null(raw->leaf);
	ck_assert(raw->read_only);
	ck_assert_int_eq(
		chain_open(roots, folder_name(&folder, "raw2"), "raw", false, &said, &err), 0);
	ck_assert(!said->read_only);
}
END_TEST

START_TEST(chains_lock_their_files)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	make_three(&folder);
	make_overlay(&folder, "other", 10, "mid.qcow2", "qcow2");
	CLEANUP(chain_cleanup) struct chain *chain = open_chain(&folder, "leaf.qcow2");
	CLEANUP(chain_cleanup) struct chain *other = open_chain(&folder, "other");

	ck_assert_uint_eq(other->count, 3); /* what both have below is only read */
	refuses(&folder, "leaf.qcow2", "qcow2", ERROR_CLASS_DEVICE_IN_USE, "leaf.qcow2");
	refuses(&folder, "mid.qcow2", "qcow2", ERROR_CLASS_DEVICE_IN_USE, "mid.qcow2");
	chain_free(steal(&chain));
	chain = open_chain(&folder, "leaf.qcow2");
}
END_TEST

UNIT_MAIN("chain", first_layer_that_says_something_is_believed,
	end_of_a_short_layer_hides_what_is_below, what_no_layer_of_a_part_holds_is_absent,
	dropped_layers_leave_the_rest_in_place, base_is_found_by_string_by_path_or_by_file,
	same_name_in_two_folders_means_the_one_beside_the_leaf,
	links_are_followed_but_names_start_from_where_the_link_is, loops_are_refused,
	chain_of_128_files_under_the_leaf_opens_and_of_129_does_not,
	names_that_lead_nowhere_are_refused_with_who_named_them,
	header_is_never_believed_about_a_file_that_is_called_raw,
	leaf_without_a_format_is_qcow2_by_its_magic_or_raw_and_read_only, chains_lock_their_files)
