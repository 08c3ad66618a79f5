/* SPDX-License-Identifier: Apache-2.0 */
/* Requests as clients pack them, and the class and the words that they get. */
#include <string.h>

#include "schemas/envelope.gen.h"
#include "tests/unit/core_fixture.h"
#include "tests/unit/unit.h"

#define MIB (UINT64_C(1) << 20)

static struct stage stage;
static const char *desc;

static void begin(void)
{
	stage_begin(&stage, NULL);
	stage_add_device(&stage, 1024 * MIB, 0);
	stage_add_device(&stage, 1024 * MIB, 0);
	stage_add_imaged(&stage);
}

static void assert_refused(const char *class, const char *words)
{
	ck_assert_str_eq(stage_error(&stage, &desc), class);
	ck_assert_str_eq(desc, words);
}

static void assert_done(void)
{
	const char *class = stage_error(&stage, &desc);

	ck_assert_ptr_nonnull(class);
	ck_assert_str_eq(desc, "");
}

/* {key: value}; a value of NULL makes it the integer. */
static void ask_with(const char *command, const char *key, const char *value, int64_t integer)
{
	struct wire_buffer packed = {0};

	wire_put_map(&packed, 2);
	wire_put_str(&packed, "device");
	wire_put_str(&packed, "disk0");
	wire_put_str(&packed, key);
	if (value != NULL)
		wire_put_str(&packed, value);
	else
		wire_put_int(&packed, integer);
	stage_ask(&stage, command, &packed);
	wire_buffer_done(&packed);
}

static void stream(struct cmd_block_stream arguments)
{
	if (arguments.device == NULL)
		arguments.device = "disk0";
	stage_stream(&stage, &arguments);
}

static void cancel(const char *device)
{
	struct cmd_block_job_cancel arguments = {.device = device};
	struct wire_buffer packed = {0};

	cmd_block_job_cancel_encode(&arguments, &packed);
	stage_ask(&stage, "block_job_cancel", &packed);
	wire_buffer_done(&packed);
}

START_TEST(words_of_a_commands_name_may_be_joined_either_way)
{
	static const char *const names[] = {
		"query-version", "query_version", "query-block_jobs", "query_status"};

	begin();
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		stage_ask(&stage, names[i], NULL);
		assert_done();
	}
	stage_ask(&stage, "queryversion", NULL);
	assert_refused("CommandNotFound", "The command queryversion has not been found");
	stage_end(&stage);
}
END_TEST

START_TEST(bad_arguments_are_named)
{
	begin();
	ask_with("block_stream", "speed", NULL, -1);
	ck_assert_str_eq(stage_error(&stage, &desc), "GenericError");
	ck_assert_ptr_nonnull(strstr(desc, "'speed'"));
	ask_with("block_stream", "nonsense", NULL, 1);
	ck_assert_str_eq(stage_error(&stage, &desc), "GenericError");
	ck_assert_ptr_nonnull(strstr(desc, "'nonsense'"));
	ask_with("block_stream", "job-id", "0id", 0);
	ck_assert_str_eq(stage_error(&stage, &desc), "GenericError");
	ck_assert_ptr_nonnull(strstr(desc, "'job-id'"));
	stage_ask(&stage, "block_stream", NULL);
	ck_assert_str_eq(stage_error(&stage, &desc), "GenericError");
	ck_assert_ptr_nonnull(strstr(desc, "'device'"));
	stage_end(&stage);
}
END_TEST

START_TEST(block_stream_is_refused_in_the_contracts_words)
{
	begin();
	stream((struct cmd_block_stream){.device = "nothere"});
	assert_refused("DeviceNotFound", "Device 'nothere' not found");
	stream((struct cmd_block_stream){.base = "a", .bottom = "b"});
	ck_assert_str_eq(stage_error(&stage, NULL), "GenericError");
	stream((struct cmd_block_stream){.backing_file = "a"});
	ck_assert_str_eq(stage_error(&stage, NULL), "GenericError");
	stream((struct cmd_block_stream){.job_id = "disk1"});
	assert_refused("GenericError", "Job ID 'disk1' is the name of another device");

	stream((struct cmd_block_stream){.job_id = "first"});
	assert_done();
	stream((struct cmd_block_stream){0});
	assert_refused("DeviceInUse", "Device 'disk0' is in use");
	stream((struct cmd_block_stream){.device = "disk1", .job_id = "first"});
	assert_refused("GenericError", "Job ID 'first' already in use");
	stage_end(&stage);
}
END_TEST

START_TEST(a_token_starts_one_job_and_is_refused_with_other_arguments)
{
	begin();
	stream((struct cmd_block_stream){.token = "t"});
	assert_done();
	stream((struct cmd_block_stream){.token = "t"});
	assert_done();
	stream((struct cmd_block_stream){.token = "t", .has_speed = true, .speed = 5});
	ck_assert_str_eq(stage_error(&stage, &desc), "GenericError");
	ck_assert_ptr_nonnull(strstr(desc, "'token'"));
	cancel("disk0");
	assert_done();
	stream((struct cmd_block_stream){.token = "t"}); /* its end is in the log: still known */
	assert_done();
	cancel("disk0");
	assert_refused("DeviceNotActive", "No job is active on device 'disk0'");
	stage_end(&stage);
}
END_TEST

START_TEST(a_job_is_found_by_its_id_and_by_its_device)
{
	begin();
	stream((struct cmd_block_stream){.job_id = "first"});
	ask_with("block_job_set_speed", "speed", NULL, 1000);
	assert_done();
	cancel("first");
	assert_done();
	cancel("first");
	assert_refused("DeviceNotActive", "No job is active on device 'first'");
	stage_end(&stage);
}
END_TEST

START_TEST(a_job_that_copied_all_completes_and_leaves_the_list)
{
	struct wire_memory memory = {0};
	struct reply_envelope reply;
	struct job_info *jobs;
	size_t count;

	begin();
	stage_add_worker(&stage, 2, 1024 * MIB);
	stream((struct cmd_block_stream){0});
	stage_run(&stage, 5000);

	ck_assert_uint_eq(stage.devices[0].copied, 1024 * MIB);
	stage_ask(&stage, "query-block-jobs", NULL);
	ck_assert_int_eq(
		reply_envelope_decode(stage.reply, stage.reply_length, &memory, &reply, NULL), 0);
	ck_assert_int_eq(cmd_query_block_jobs_return_decode(reply.returned.bytes,
				 reply.returned.length, &memory, &jobs, &count, NULL),
		0);
	ck_assert_uint_eq(count, 0);
	ck_assert_uint_eq(reply.seq, core_last_seq(stage.core));
	wire_memory_done(&memory);
	stage_end(&stage);
}
END_TEST

START_TEST(what_is_no_request_is_answered)
{
	static const char *const texts[] = {
		"", "x", "\xc1", "\x81\xa1", "\xdf\xff\xff\xff\xff", "\x80", "\x90"};

	begin();
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		stage.reply_length = 0;
		core_client_request(stage.core, stage_time(&stage), 900 + i, texts[i],
			strlen(texts[i]), &stage.waiting);
		stage_settle(&stage);
		ck_assert_str_eq(stage_error(&stage, NULL), "GenericError");
	}
	stage_end(&stage);
}
END_TEST

UNIT_MAIN("core_commands", words_of_a_commands_name_may_be_joined_either_way,
	bad_arguments_are_named, block_stream_is_refused_in_the_contracts_words,
	a_token_starts_one_job_and_is_refused_with_other_arguments,
	a_job_is_found_by_its_id_and_by_its_device,
	a_job_that_copied_all_completes_and_leaves_the_list, what_is_no_request_is_answered)
