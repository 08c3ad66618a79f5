/* SPDX-License-Identifier: Apache-2.0 */
/* What a hello tells is what the device holds, read back as a broker reads it. */
#include "imaged/hello.h"
#include "tests/unit/copy_fixture.h"

static struct device_fixture f;

static struct msg_imaged_hello hello_now(void)
{
	const struct hello_identity identity = {
		.name = "alpha", .host_name = "h", .realm = "r", .incarnation = 5};
	struct wire_buffer buffer = {0};
	struct imaged_to_broker message;
	struct err err;

	hello_encode(&f.host, &identity, &buffer);
	ck_assert_msg(imaged_to_broker_decode(
			      buffer.bytes, buffer.length, &f.memory, &message, &err) == 0,
		"%s", err.text);
	wire_buffer_done(&buffer);
	ck_assert_int_eq(message.type, IMAGED_TO_BROKER_IMAGED_HELLO);
	return message.imaged_hello;
}

START_TEST(a_hello_lists_what_is_open_and_not_what_is_in_quarantine)
{
	struct reservation open, revoked;
	struct msg_imaged_hello hello;

	fixture_begin_job(&f);
	revoked = fixture_reserve(&f, 0, 1);
	reservation_abort(f.device, revoked.lease, WORKER_MAY_WRITE);
	open = fixture_reserve(&f, 4, 2);
	hello = hello_now();
	ck_assert_str_eq(hello.boot_id, "boot");
	ck_assert_uint_eq(hello.devices_count, 1);
	ck_assert_str_eq(hello.devices[0].device, "d");
	ck_assert_uint_eq(hello.devices[0].chain_count, 2);
	ck_assert_uint_eq(hello.jobs_count, 1);
	ck_assert_str_eq(hello.jobs[0].job, "j");
	ck_assert_uint_eq(hello.joins_count, 1);
	ck_assert(hello.joins[0].confirmed);
	ck_assert_uint_eq(hello.leases_count, 1);
	ck_assert_uint_eq(hello.leases[0].lease, open.lease);
	ck_assert_uint_eq(hello.leases[0].offset, 4 * CLUSTER);
	fixture_end(&f);
}
END_TEST

START_TEST(a_failed_device_is_not_told_of)
{
	struct err err = {0};

	fixture_begin_job(&f);
	f.device->leaf->failed = true;
	ck_assert(device_notice_failure(f.device, &err));
	ck_assert_uint_eq(hello_now().devices_count, 0);
	fixture_end(&f);
}
END_TEST

DEVICE_MAIN("hello", a_hello_lists_what_is_open_and_not_what_is_in_quarantine,
	a_failed_device_is_not_told_of)
