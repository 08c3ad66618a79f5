/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a chain from its leaf down, and looking guest bytes up in it.
 *
 * Each file: opened beneath the roots, compared with those above (a loop), locked, and only then read.  The leaf comes first, so
 * a name that a stranger wrote is never followed before the leaf is ours. */
#include "imaged/chain.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "common/io.h"
#include "imaged/chain_names.h"
#include "imaged/file_locks.h"
#include "schemas/errors.gen.h"

/* L1 tables are kept in memory whole: a chain of hostile ones shall not take all of it. */
#define CHAIN_L1_BYTES_MAX (UINT64_C(256) << 20)

DEFINE_CLEANUP(chain, chain_free)

static void layer_done(struct chain_layer *place)
{
	if (place->layer)
		place->layer->ops->free(place->layer);
	free(place->name);
	free(place->path);
	free(place->opened_as);
	*place = (struct chain_layer){0};
}

void chain_free(struct chain *chain)
{
	if (!chain)
		return;
	while (chain->count > 0)
		layer_done(&chain->layers[--chain->count]);
	free(chain);
}

static char *absolute(const char *file)
{
	char folder[PATH_MAX + 1]; /* and a slash */
	size_t length;

	if (file[0] == '/' || !getcwd(folder, PATH_MAX))
		return must_strdup(file);
	length = strlen(folder);
	folder[length] = '/';
	folder[length + 1] = '\0';
	return chain_name_beside(folder, file);
}

/* Where an open file really is. */
static char *true_path(int fd, const char *otherwise)
{
	char link[64], path[PATH_MAX];
	ssize_t length;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, path, sizeof(path) - 1);
	if (length <= 0)
		return must_strdup(otherwise);
	path[length] = '\0';
	return must_strdup(path);
}

bool chain_same_file(const struct chain_layer *layer, const struct stat *status)
{
	if (layer->block_device)
		return S_ISBLK(status->st_mode) && layer->block_device == status->st_rdev;
	return layer->device == status->st_dev && layer->inode == status->st_ino;
}

/* Fills what the file system knows of the file; refuses one that the chain has already. */
static int identify(const struct chain *chain, struct chain_layer *place, int fd, struct err *err)
{
	struct stat status;

	if (fstat(fd, &status) < 0)
		return err_set_errno(err, errno, "%s", place->path);
	for (size_t i = 0; i < chain->count; i++) {
		if (chain_same_file(&chain->layers[i], &status))
			return err_set(err,
				"the backing files form a loop: %s is layer %zu of the chain already",
				place->path, i);
	}
	place->device = status.st_dev;
	place->inode = status.st_ino;
	place->block_device = S_ISBLK(status.st_mode) ? status.st_rdev : 0;
	place->mtime_ns = (int64_t)status.st_mtim.tv_sec * 1000000000 + status.st_mtim.tv_nsec;
	return 0;
}

/* Reads what the file is made of; takes fd over. */
static int open_format(struct chain_layer *place, int fd, struct qcow2 **ret_image, struct err *err)
{
	struct qcow2 *image = NULL;

	if (strcmp(place->format, "qcow2") == 0) {
		if (qcow2_open(fd, place->path, &image, err) < 0)
			return -1;
		place->layer = layer_qcow2_new(image);
	} else if (layer_raw_open(fd, place->path, &place->layer, err) < 0) {
		return -1;
	}
	place->size = place->layer->size;
	*ret_image = image;
	return 0;
}

/* Adds one layer below those that are there.  `format` is "qcow2" or "raw" (static text); *ret_image: its image, NULL if raw. */
static int add_layer(struct chain *chain, const struct roots *roots, const char *name,
	const char *path, const char *format, bool for_writing, struct qcow2 **ret_image,
	struct err *err)
{
	struct chain_layer *place = &chain->layers[chain->count];
	CLEANUP_CLOSE int fd = roots_open(roots, path, for_writing ? O_RDWR : O_RDONLY, err);
	int taken;

	if (fd < 0)
		return -1;
	place->name = must_strdup(name);
	place->opened_as = absolute(path);
	place->path = true_path(fd, place->opened_as);
	place->format = format;
	if (identify(chain, place, fd, err) < 0 ||
		(for_writing ? file_lock_writer(fd, place->path, err)
			     : file_lock_reader(fd, place->path, err)) < 0)
		goto failed;
	taken = fd;
	fd = -1;
	if (open_format(place, taken, ret_image, err) < 0)
		goto failed;
	chain->count++;
	return 0;
failed:
	layer_done(place);
	return -1;
}

/* The format of a leaf whose user named none: whether the magic is there. */
static int guess_format(
	const struct roots *roots, const char *file, const char **ret_format, struct err *err)
{
	unsigned char magic[4];
	CLEANUP_CLOSE int fd = roots_open(roots, file, O_RDONLY, err);
	int64_t length;

	if (fd < 0)
		return -1;
	length = pread_up_to(fd, magic, sizeof(magic), 0);
	if (length < 0)
		return err_set_errno(err, errno, "%s", file);
	*ret_format = qcow2_header_is(magic, (size_t)length) ? "qcow2" : "raw";
	return 0;
}

static int open_leaf(struct chain *chain, const struct roots *roots, const char *file,
	const char *format, bool read_only, struct err *err)
{
	if (format && strcmp(format, "qcow2") != 0 && strcmp(format, "raw") != 0)
		return err_set_kind(err, ERROR_CLASS_NOT_SUPPORTED,
			"format %s is not supported, only qcow2 and raw", format);
	if (format)
		format = strcmp(format, "qcow2") == 0 ? "qcow2" : "raw";
	else if (guess_format(roots, file, &format, err) < 0)
		return -1;
	else if (strcmp(format, "raw") == 0)
		/* Its guest could write a qcow2 header into it, to be believed next time. */
		read_only = true;
	chain->read_only = read_only;
	if (add_layer(chain, roots, file, file, format, !read_only, &chain->leaf, err) < 0)
		return -1;
	chain->size = chain->layers[0].size;
	return 0;
}

/* The file below the lowest layer, whose image is `image`; *ret_image is that file's. */
static int open_backing(struct chain *chain, const struct roots *roots, const struct qcow2 *image,
	struct qcow2 **ret_image, struct err *err)
{
	const struct chain_layer *above = &chain->layers[chain->count - 1];
	const char *name = image->header.backing_name;
	CLEANUP_FREE char *path = NULL;
	const char *format;

	if (chain->count == CHAIN_MAX)
		return err_set(err, "the chain under %s has more than %d files",
			chain->layers[0].path, CHAIN_MAX - 1);
	if (chain_name_resolve(above->opened_as, name, image->header.backing_format, &path, err) <
		0)
		return -1;
	format = strcmp(image->header.backing_format, "qcow2") == 0 ? "qcow2" : "raw";
	if (add_layer(chain, roots, name, path, format, false, ret_image, err) < 0)
		return err_wrap(err, "backing file of %s", above->path);
	return 0;
}

static int open_all_backing(struct chain *chain, const struct roots *roots, struct err *err)
{
	struct qcow2 *image = chain->leaf;
	uint64_t l1_bytes = 0;

	while (image) {
		l1_bytes += image->header.l1_entries * UINT64_C(8);
		if (l1_bytes > CHAIN_L1_BYTES_MAX)
			return err_set_kind(err, ERROR_CLASS_NOT_SUPPORTED,
				"the L1 tables of the chain under %s are larger than %llu bytes",
				chain->layers[0].path, (unsigned long long)CHAIN_L1_BYTES_MAX);
		if (image->header.backing_name[0] == '\0')
			return 0;
		if (open_backing(chain, roots, image, &image, err) < 0)
			return -1;
	}
	return 0;
}

int chain_open(const struct roots *roots, const char *file, const char *format, bool read_only,
	struct chain **ret_chain, struct err *err)
{
	CLEANUP(chain_cleanup) struct chain *chain = must_calloc(1, sizeof(*chain));

	if (open_leaf(chain, roots, file, format, read_only, err) < 0 ||
		open_all_backing(chain, roots, err) < 0)
		return -1;
	*ret_chain = steal(&chain);
	return 0;
}

/* The only layer called `name` in the chain; 0 for none or several. */
static size_t find_by_string(const struct chain *chain, const char *name)
{
	size_t found = 0;

	for (size_t i = 1; i < chain->count; i++) {
		if (strcmp(chain->layers[i].name, name) != 0)
			continue;
		if (found)
			return 0;
		found = i;
	}
	return found;
}

static size_t find_by_file(const struct chain *chain, const char *path)
{
	struct stat status;

	if (stat(path, &status) < 0)
		return 0;
	for (size_t i = 1; i < chain->count; i++) {
		if (chain_same_file(&chain->layers[i], &status))
			return i;
	}
	return 0;
}

int chain_find(const struct chain *chain, const char *name, struct err *err)
{
	CLEANUP_FREE char *path = chain_name_beside(chain->layers[0].opened_as, name);
	size_t found = find_by_string(chain, name);

	if (!found)
		found = find_by_file(chain, path);
	if (!found)
		return err_set_kind(err, ERROR_CLASS_BASE_NOT_FOUND,
			"'%s' is not in the chain under %s", name, chain->layers[0].path);
	return (int)found;
}

int chain_map(struct chain *chain, size_t first, size_t end, uint64_t offset, uint64_t length,
	struct extent *ret_extent, struct err *err)
{
	bug_if(end > chain->count || first > end || length == 0);
	for (size_t i = first; i < end; i++) {
		struct layer *layer = chain->layers[i].layer;
		struct extent extent;

		if (offset >= layer->size) {
			*ret_extent = (struct extent){.kind = EXTENT_ZERO,
				.length = length,
				.layer = (unsigned)i,
				.past_end = true};
			return 0;
		}
		if (length > layer->size - offset)
			length = layer->size - offset;
		if (layer->ops->map(layer, offset, length, &extent, err) < 0)
			return -1;
		length = extent.length;
		if (extent.kind == EXTENT_ABSENT)
			continue;
		extent.layer = (unsigned)i;
		*ret_extent = extent;
		return 0;
	}
	*ret_extent =
		(struct extent){.kind = EXTENT_ABSENT, .length = length, .layer = (unsigned)end};
	return 0;
}

void chain_drop(struct chain *chain, size_t end, const char *name)
{
	bug_if(end < 1 || end > chain->count);
	for (size_t i = 1; i < end; i++)
		layer_done(&chain->layers[i]);
	memmove(&chain->layers[1], &chain->layers[end],
		(chain->count - end) * sizeof(chain->layers[0]));
	chain->count -= end - 1;
	if (chain->count == 1)
		return;
	free(chain->layers[1].name);
	chain->layers[1].name = must_strdup(name);
}
