/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of sluice-imaged.  It is read twice: by the program, and by what serves guests (nbd_plugin.c), which is given the
 * same words. */
#ifndef SLUICE_IMAGED_SETTINGS_H
#define SLUICE_IMAGED_SETTINGS_H

#include <stdbool.h>

#include "common/attributes.h"
#include "common/err.h"
#include "common/options.h"

#define SETTINGS_NAME_BYTES 64

struct settings {
	const char *broker;
	const char *name;
	const char *realm;
	bool is_insecure;
	struct option_list roots;
	struct option_list devices;
	struct option_list
		nbd; /* unix:PATH, tcp:HOST:PORT, or "none" alone; empty: R/nbd, or what systemd passes */
	const char *tls; /* off, on, require */
	const char *tls_certificates, *tls_psk;
	const char *group;
	char default_broker[256];
	char host_name[SETTINGS_NAME_BYTES + 1];
	char boot_id[SETTINGS_NAME_BYTES + 1];
};

/* Exits for wrong usage (2), --help and --version (0).  0, or -1 and err where a default can't be found. */
int MUST_CHECK settings_read(int argc, char **argv, struct settings *settings, struct err *err);
/* Ends the process as for wrong usage. */
void settings_refuse(const char *format, ...) PRINTF_LIKE(1, 2) NORETURN;

bool settings_serve_guests(const struct settings *settings);
bool settings_use_tls(const struct settings *settings);
/* Whether a client elsewhere may connect to an address that is not loopback. */
bool settings_allow_remote_guests(const struct settings *settings);

#endif
