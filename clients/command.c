/* SPDX-License-Identifier: Apache-2.0 */
#include "clients/command.h"

#include <stdarg.h>
#include <stdio.h>

#include "clients/json_convert.h"
#include "common/check.h"

int command_fail(const char *format, ...)
{
	va_list arguments;

	fflush(stdout);
	fputs("sluice: ", stderr);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	return 1;
}

/* The reply as the broker gave it, without the number that we gave it. */
static int print_reply(json_t *reply, struct err *err)
{
	json_object_del(reply, "id");
	return json_print_line(reply, err);
}

static int ask(struct connection *connection, const char *command, json_t *arguments,
	json_t **ret_reply, struct err *err)
{
	CLEANUP(json_cleanup) json_t *request = json_object();

	json_put_text(request, "execute", command);
	bug_if(json_object_set_new(request, "arguments", arguments) < 0);
	return client_ask(connection->client, request, ret_reply, err);
}

static int show_reply(const struct connection_settings *settings, json_t *reply, command_show *show,
	void *owner, struct err *err)
{
	const json_t *error = json_object_get(reply, "error");

	if (settings->wants_json && print_reply(reply, err) < 0)
		return -1;
	if (error)
		return client_error(error, err);
	if (!settings->wants_json && show)
		show(json_object_get(reply, "return"), owner);
	return 0;
}

int command_ask_and_show(const struct connection_settings *settings, const char *command,
	json_t *arguments, command_show *show, void *owner)
{
	CLEANUP(json_cleanup) json_t *reply = NULL;
	struct connection connection;
	struct err err = {0};

	int rc = connection_open(&connection, settings, CONNECTION_SIGNALS_END_IT, &err);
	if (rc == 0)
		rc = ask(&connection, command, arguments, &reply, &err);
	else
		json_decref(arguments);
	if (rc == 0)
		rc = show_reply(settings, reply, show, owner, &err);
	connection_close(&connection);
	if (rc < 0)
		return command_fail("%s", err.text);
	return fflush(stdout) == 0 ? 0 : command_fail("cannot write the output");
}
