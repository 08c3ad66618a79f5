/* SPDX-License-Identifier: Apache-2.0 */
#include "imaged/settings.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "common/program.h"

#define NAME_RULE "must be a letter, then letters, digits, '-', '.', '_', at most 64 bytes"

void settings_refuse(const char *format, ...)
{
	char text[1024];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof text, format, arguments);
	va_end(arguments);
	log_error("%s", text);
	exit(2);
}

/* As the schema wants it. */
static bool is_name(const char *text, size_t length)
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

	return length > 0 && length <= SETTINGS_NAME_BYTES && text[0] && strchr(letters, text[0]) &&
	       strspn(text + 1,
		       "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._") >=
		       length - 1;
}

static void parse(int argc, char **argv, struct settings *settings)
{
	const struct option table[] = {
		{"broker", OPTION_TEXT, &settings->broker, "ENDPOINT",
			"Where the broker listens for imageds (default: ipc://R/images)."},
		{"root", OPTION_LIST, &settings->roots, "DIR",
			"Open files only beneath this folder; at least one is required."},
		{"device", OPTION_LIST, &settings->devices, "NAME=FILE[,format=F]",
			"Attach this image at start."},
		{"nbd", OPTION_LIST, &settings->nbd, "unix:PATH|tcp:HOST:PORT",
			"Where guests connect (default: unix:R/nbd, or the sockets that systemd passes); "
			"none: no guest is served."},
		{"nbd-tls", OPTION_TEXT, &settings->tls, "off|on|require",
			"Whether guests may, or must, encrypt (default: off)."},
		{"nbd-tls-certificates", OPTION_TEXT, &settings->tls_certificates, "DIR",
			"The server's certificate and key, as nbdkit-tls(1) has it: ca-cert.pem, server-cert.pem, server-key.pem."},
		{"nbd-tls-psk", OPTION_TEXT, &settings->tls_psk, "FILE",
			"Names and keys that guests and this server share."},
		{"nbd-group", OPTION_TEXT, &settings->group, "GROUP",
			"Owns the UNIX sockets for guests, so that its members may connect."},
		{"name", OPTION_TEXT, &settings->name, "NAME",
			"Of this imaged (default: host name)."},
		{"realm", OPTION_TEXT, &settings->realm, "NAME",
			"Workers of this realm can reach the files (default: host name)."},
		{"insecure", OPTION_FLAG, &settings->is_insecure, NULL,
			"Allow TCP addresses that are not loopback, and guests there without TLS."},
		{0},
	};
	const struct options_usage usage = {
		.program = "sluice-imaged",
		.synopsis = "--root DIR [OPTION]...",
		.about =
			"Owns disk images: opens them with their backing chains, serves them to guests "
			"over NBD, and is the only one that changes them, while workers copy what is "
			"missing.",
	};

	options_parse(argc, argv, &usage, table, NULL);
}

static bool are_devices_named(const struct option_list *devices)
{
	for (size_t i = 0; i < devices->count; i++) {
		const char *equals = strchr(devices->values[i], '=');

		if (!equals || equals[1] == '\0' ||
			!is_name(devices->values[i], (size_t)(equals - devices->values[i])))
			return false;
	}
	return true;
}

static bool is_tls_word(const char *word)
{
	return strcmp(word, "off") == 0 || strcmp(word, "on") == 0 || strcmp(word, "require") == 0;
}

static void check_nbd(const struct settings *settings)
{
	for (size_t i = 0; i < settings->nbd.count; i++) {
		if (strcmp(settings->nbd.values[i], "none") == 0 && settings->nbd.count > 1)
			settings_refuse("--nbd none stands alone");
	}
	if (!is_tls_word(settings->tls))
		settings_refuse("--nbd-tls must be off, on or require");
	if (!settings_use_tls(settings) && (settings->tls_certificates || settings->tls_psk))
		settings_refuse(
			"--nbd-tls-certificates and --nbd-tls-psk need --nbd-tls on or require");
	if (settings->tls_certificates && settings->tls_psk)
		settings_refuse("--nbd-tls-certificates and --nbd-tls-psk exclude each other");
	if (settings_use_tls(settings) && !settings->tls_certificates && !settings->tls_psk)
		settings_refuse(
			"--nbd-tls on and require need --nbd-tls-certificates or --nbd-tls-psk");
}

/* nbdkit goes on without TLS where one of these is missing, if clients may do without. */
static int check_certificates(const struct settings *settings, struct err *err)
{
	static const char *const names[] = {"ca-cert.pem", "server-cert.pem", "server-key.pem"};

	for (size_t i = 0; settings->tls_certificates && i < sizeof names / sizeof names[0]; i++) {
		char path[PATH_MAX];

		snprintf(path, sizeof path, "%s/%s", settings->tls_certificates, names[i]);
		if (access(path, R_OK) < 0)
			return err_set_errno(err, errno, "cannot read %s", path);
	}
	return 0;
}

static void check(const struct settings *settings)
{
	if (settings->roots.count == 0)
		settings_refuse("at least one --root is required");
	if (!is_name(settings->name, strlen(settings->name)))
		settings_refuse("--name " NAME_RULE);
	if (!is_name(settings->realm, strlen(settings->realm)))
		settings_refuse("--realm " NAME_RULE);
	if (!are_devices_named(&settings->devices))
		settings_refuse("--device must be NAME=FILE or NAME=FILE,format=F");
	if (!program_endpoint_is_local(settings->broker) && !settings->is_insecure)
		settings_refuse("--broker is neither ipc nor loopback; --insecure allows it");
	check_nbd(settings);
}

static int find_defaults(struct settings *settings, struct err *err)
{
	if (program_host_name(settings->host_name, sizeof settings->host_name, err) < 0 ||
		program_boot_id(settings->boot_id, sizeof settings->boot_id, err) < 0)
		return -1;
	if (!settings->broker) {
		if (program_endpoint(settings->default_broker, sizeof settings->default_broker,
			    "images", err) < 0)
			return -1;
		settings->broker = settings->default_broker;
	}
	if (!settings->name)
		settings->name = settings->host_name;
	if (!settings->realm)
		settings->realm = settings->host_name;
	if (!settings->tls)
		settings->tls = "off";
	return 0;
}

int settings_read(int argc, char **argv, struct settings *settings, struct err *err)
{
	parse(argc, argv, settings);
	if (find_defaults(settings, err) < 0)
		return -1;
	check(settings);
	return check_certificates(settings, err);
}

bool settings_serve_guests(const struct settings *settings)
{
	return settings->nbd.count == 0 || strcmp(settings->nbd.values[0], "none") != 0;
}

bool settings_use_tls(const struct settings *settings)
{
	return strcmp(settings->tls, "off") != 0;
}

bool settings_allow_remote_guests(const struct settings *settings)
{
	return settings->is_insecure || strcmp(settings->tls, "require") == 0;
}
