/* SPDX-License-Identifier: Apache-2.0 */
/* sluice call: any request as JSON, its reply as JSON. */
#include "clients/command.h"
#include "clients/json_convert.h"
#include "common/check.h"

/* The reply, with the request's own id in the place of the number that the client gave it. */
static void put_back_id(const json_t *request, json_t *reply)
{
	json_t *id = json_object_get(request, "id");

	json_object_del(reply, "id");
	if (id)
		bug_if(json_object_set(reply, "id", id) < 0);
}

static int call(const struct connection_settings *settings, const json_t *request, struct err *err)
{
	CLEANUP(json_cleanup) json_t *reply = NULL;
	struct connection connection;

	int rc = connection_open(&connection, settings, CONNECTION_SIGNALS_END_IT, err);
	if (rc == 0)
		rc = client_ask(connection.client, request, &reply, err);
	connection_close(&connection);
	if (rc)
		return rc;
	put_back_id(request, reply);
	if (json_print_line(reply, err) < 0)
		return -1;
	const json_t *error = json_object_get(reply, "error");
	return error ? client_error(error, err) : 0;
}

int command_call(int argc, char **argv)
{
	struct connection_settings settings = {0};
	const char *text = NULL;
	const struct option table[] = {
		CONNECTION_OPTIONS(&settings),
		JSON_OPTION(&settings),
		{0},
	};
	const struct options_usage usage = {
		.program = "sluice call",
		.synopsis = "REQUEST [OPTION]...",
		.about =
			"Sends any request, as JSON: sluice call '{\"execute\": \"query-status\"}'.  Prints the reply "
			"as JSON; the exit status is 1 if it is an error.",
		.arguments_min = 1,
		.arguments_max = 1,
	};
	struct err err = {0};
	json_error_t why;

	options_parse(argc, argv, &usage, table, &text);
	CLEANUP(json_cleanup) json_t *request = json_loads(text, JSON_REJECT_DUPLICATES, &why);
	if (!json_is_object(request)) {
		command_fail("call: the request is no JSON object%s%s", request ? "" : ": ",
			request ? "" : why.text);
		return 2;
	}
	return call(&settings, request, &err) < 0 ? command_fail("%s", err.text) : 0;
}
