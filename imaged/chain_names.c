/* SPDX-License-Identifier: Apache-2.0 */
/* What stands in a header is read as QEMU's programs read it: `word:` before the first slash is a protocol, everything else a
 * path, relative to the folder of the file whose header it is, by the name that this file was opened by. */
#include "imaged/chain_names.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "schemas/errors.gen.h"

char *chain_name_beside(const char *from, const char *name)
{
	const char *slash = strrchr(from, '/');
	size_t folder_length = slash && name[0] != '/' ? (size_t)(slash - from) + 1 : 0;
	size_t name_length = strlen(name);
	char *path = must_calloc(1, folder_length + name_length + 1);

	memcpy(path, from, folder_length);
	memcpy(path + folder_length, name, name_length);
	return path;
}

/* In single quotes, so that a shell takes it for one word.  Owned by the caller. */
static char *quoted(const char *text)
{
	char *quote = must_calloc(1, strlen(text) * 4 + 3);
	char *end = quote;

	*end++ = '\'';
	for (; *text; text++) {
		if (*text == '\'')
			end = stpcpy(end, "'\\''");
		else
			*end++ = *text;
	}
	*end = '\'';
	return quote;
}

static int refuse_without_format(const char *from, const char *name, struct err *err)
{
	CLEANUP_FREE char *name_word = quoted(name);
	CLEANUP_FREE char *from_word = quoted(from);

	return err_set(err,
		"%s names a backing file without its format; name it (FORMAT is raw or qcow2): qemu-img rebase -u -F FORMAT -b %s %s",
		from, name_word, from_word);
}

static int refuse_json(const char *from, struct err *err)
{
	CLEANUP_FREE char *from_word = quoted(from);

	return err_set(err,
		"%s names its backing file by json:, which is refused; name the file itself: qemu-img rebase -u -F FORMAT -b NAME %s",
		from, from_word);
}

/* The length of "word" where the name begins with "word:", else 0. */
static size_t protocol_length(const char *name)
{
	size_t length = strcspn(name, ":/");

	return name[length] == ':' ? length : 0;
}

int chain_name_resolve(
	const char *from, const char *name, const char *format, char **ret_path, struct err *err)
{
	size_t protocol = protocol_length(name);

	if (strncmp(name, "json:", 5) == 0)
		return refuse_json(from, err);
	if (protocol == 4 && strncmp(name, "file:/", 6) == 0)
		name += 5;
	else if (protocol)
		return err_set_kind(err, ERROR_CLASS_NOT_SUPPORTED,
			"%s names a backing file by the protocol %.*s:, which is not supported yet",
			from, (int)protocol, name);
	if (format[0] == '\0')
		return refuse_without_format(from, name, err);
	if (strcmp(format, "raw") != 0 && strcmp(format, "qcow2") != 0)
		return err_set_kind(err, ERROR_CLASS_NOT_SUPPORTED,
			"%s names a backing file of format %s, which is not supported, only qcow2 and raw",
			from, format);
	*ret_path = chain_name_beside(from, name);
	return 0;
}
