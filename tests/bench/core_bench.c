/* SPDX-License-Identifier: Apache-2.0 */
/* core_bench: how many ranges a second the broker's core takes through all their steps on one
 * core of this machine, the models of imaged and workers included; and what a step costs while
 * thousands of devices sleep. */
#include <stdio.h>
#include <time.h>

#include "tests/unit/core_fixture.h"

#define MIB (UINT64_C(1) << 20)
#define TIB (UINT64_C(1) << 40)

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void add_sleeping_devices(struct stage *stage, unsigned count)
{
	static struct device_state states[10000];
	static char names[10000][16], files[10000][32];
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_IMAGED_HELLO,
		.imaged_hello = {.protocol = 1,
			.incarnation = 2,
			.host = "h",
			.boot_id = "b",
			.realm = "other"},
	};

	for (unsigned i = 0; i < count; i++) {
		snprintf(names[i], sizeof(names[i]), "idle%u", i);
		snprintf(files[i], sizeof(files[i]), "/idle/%u", i);
		states[i] = (struct device_state){
			names[i], files[i], "qcow2", TIB, 65536, false, false, "", NULL, 0};
	}
	for (unsigned i = 0; i < count; i += 1000) {
		char name[16];

		snprintf(name, sizeof(name), "imaged%u", i / 1000);
		message.imaged_hello.name = name;
		message.imaged_hello.devices = states + i;
		message.imaged_hello.devices_count = count - i < 1000 ? count - i : 1000;
		core_imaged_message(
			stage->core, stage_time(stage), 1000 + i, &message, &stage->waiting);
	}
	effects_clear(&stage->waiting);
}

static void measure(unsigned sleeping)
{
	static struct stage stage;
	struct cmd_block_stream arguments = {.device = "disk0"};
	double begin;

	stage_begin(&stage, NULL);
	stage_add_device(&stage, 64 * TIB, STAGE_CLUSTER);
	stage_add_imaged(&stage);
	add_sleeping_devices(&stage, sleeping);
	for (int i = 0; i < 4; i++)
		stage_add_worker(&stage, 2, 60 * MIB);
	stage_stream(&stage, &arguments);
	begin = seconds();
	stage_run(&stage, 20000);
	printf("%5u devices asleep: %llu ranges, %.0f a second of one core\n", sleeping,
		(unsigned long long)stage.ranges, (double)stage.ranges / (seconds() - begin));
	stage_end(&stage);
}

int main(void)
{
	measure(0);
	measure(1000);
	measure(9000);
	return 0;
}
