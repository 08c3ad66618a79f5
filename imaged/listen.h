/* SPDX-License-Identifier: Apache-2.0 */
/* The sockets at which guests connect: made here, or passed by systemd, and handed over to nbdkit as systemd does it.
 *
 * A UNIX socket's file that nobody listens to is replaced, any other file is left alone; between looking and binding its folder is
 * locked, so that of two processes that come at once one is refused. */
#ifndef SLUICE_IMAGED_LISTEN_H
#define SLUICE_IMAGED_LISTEN_H

#include <stddef.h>

#include "imaged/settings.h"

#define LISTENERS_MAX 16 /* nbdkit takes no more */

struct listeners {
	int fds[LISTENERS_MAX];
	size_t count;
	char *files
		[LISTENERS_MAX]; /* UNIX sockets that were made, absolute; to be removed at the end */
	size_t files_count;
	char *uri_before,
		*uri_after; /* enclose a device's name, by the first address; NULL: it has no URI */
};

/* 0, or -1 and err; exits for wrong usage. */
int MUST_CHECK listeners_open(
	struct listeners *listeners, const struct settings *settings, struct err *err);
/* Closes the sockets and removes their files. */
void listeners_done(struct listeners *listeners);
/* Puts the descriptors where a program started by this process looks for them, and says so in the environment. */
int MUST_CHECK listeners_hand_over(struct listeners *listeners, struct err *err);

#endif
