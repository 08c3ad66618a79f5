/* SPDX-License-Identifier: Apache-2.0 */
#include "imaged/names.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "imaged/chain_names.h"

/* 1: found from the leaf's folder, the name is that layer's file; 0: it is not, with the reason in err. */
static int finds(const struct roots *roots, const struct chain *chain, size_t kept,
	const char *name, struct err *err)
{
	const struct chain_layer *layer = &chain->layers[kept];
	CLEANUP_FREE char *path = NULL;
	CLEANUP_CLOSE int fd = -1;
	struct stat status;

	if (strlen(name) > QCOW2_NAME_MAX) {
		err_set(err, "it is longer than %d bytes", QCOW2_NAME_MAX);
		return 0;
	}
	if (chain_name_resolve(chain->layers[0].opened_as, name, layer->format, &path, err) < 0)
		return 0;
	fd = roots_open(roots, path, O_RDONLY, err);
	if (fd < 0)
		return 0;
	if (fstat(fd, &status) < 0 || !chain_same_file(layer, &status)) {
		err_set(err, "it is not the very same file as '%s'", layer->path);
		return 0;
	}
	return 1;
}

int names_choose(const struct roots *roots, const struct chain *chain, size_t kept,
	const char *wanted, const char **ret_name, struct err *err)
{
	const struct chain_layer *layer = &chain->layers[kept];

	if (wanted) {
		if (!finds(roots, chain, kept, wanted, err))
			return err_wrap(err, "backing-file '%s'", wanted);
		*ret_name = wanted;
		return 0;
	}
	if (finds(roots, chain, kept, layer->name, NULL)) {
		*ret_name = layer->name;
		return 0;
	}
	if (!finds(roots, chain, kept, layer->path, err))
		return err_wrap(err, "backing file '%s'", layer->path);
	*ret_name = layer->path;
	return 0;
}
