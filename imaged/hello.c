/* SPDX-License-Identifier: Apache-2.0 */
#include "imaged/hello.h"

#include <string.h>
#include <unistd.h>

#include "imaged/stream.h"
#include "schemas/imaged_broker.gen.h"

struct gathering {
	struct wire_memory *memory;
	struct msg_imaged_hello *hello;
	struct description **descriptions; /* references that keep the texts alive */
	size_t description_count;
};

static char *text(struct gathering *gathering, const char *words)
{
	return wire_memory_text(gathering->memory, words, strlen(words));
}

static void add_joins(struct gathering *gathering, struct device *device)
{
	struct msg_imaged_hello *hello = gathering->hello;

	for (size_t i = 0; i < device->joins.count; i++) {
		const struct join *join = device->joins.joins[i];

		if (join->state == JOIN_ENDED || hello->joins_count == DEVICE_HOST_JOINS_MAX)
			continue;
		hello->joins[hello->joins_count++] = (struct open_join){
			.join = join->id,
			.device = device->name,
			.worker = text(gathering, join->worker),
			.incarnation = join->incarnation,
			.confirmed = join->state == JOIN_CONFIRMED,
		};
	}
}

static void add_leases(struct gathering *gathering, struct device *device, const char *job)
{
	struct msg_imaged_hello *hello = gathering->hello;
	struct lease_table *table = &device->leases;

	pthread_mutex_lock(&table->lock);
	for (size_t i = 0; i < table->count; i++) {
		const struct lease *lease = table->leases[i];

		if (lease->is_quarantined || hello->leases_count == DEVICE_HOST_LEASES_MAX)
			continue;
		hello->leases[hello->leases_count++] = (struct open_lease){
			.lease = lease->id,
			.device = device->name,
			.job = job,
			.join = lease->join,
			.offset = lease->offset,
			.length = lease->length,
		};
	}
	pthread_mutex_unlock(&table->lock);
}

/* A device that has failed is not told of: the broker attaches it anew. */
static void add_device(struct gathering *gathering, struct device *device)
{
	struct msg_imaged_hello *hello = gathering->hello;
	const char *job;

	pthread_mutex_lock(&device->lock);
	if (device->description && !device->has_failed) {
		gathering->descriptions[gathering->description_count++] =
			description_get(device->description);
		hello->devices[hello->devices_count++] = device->description->state;
		add_joins(gathering, device);
		if (device->stream) {
			job = text(gathering, device->stream->job);
			hello->jobs[hello->jobs_count++] =
				(struct open_job_state){.device = device->name, .job = job};
			add_leases(gathering, device, job);
		}
	}
	pthread_mutex_unlock(&device->lock);
}

void hello_encode(
	struct device_host *host, const struct hello_identity *identity, struct wire_buffer *buffer)
{
	struct wire_memory memory = {0};
	struct msg_imaged_hello hello = {
		.protocol = 1,
		.name = identity->name,
		.incarnation = identity->incarnation,
		.host = identity->host_name,
		.boot_id = host->boot_id,
		.realm = identity->realm,
		.pid = (uint64_t)getpid(),
	};
	struct gathering gathering = {.memory = &memory, .hello = &hello};

	hello.devices = wire_memory_get(&memory, host->count * sizeof hello.devices[0]);
	hello.jobs = wire_memory_get(&memory, host->count * sizeof hello.jobs[0]);
	hello.joins = wire_memory_get(&memory, DEVICE_HOST_JOINS_MAX * sizeof hello.joins[0]);
	hello.leases = wire_memory_get(&memory, DEVICE_HOST_LEASES_MAX * sizeof hello.leases[0]);
	gathering.descriptions =
		wire_memory_get(&memory, host->count * sizeof gathering.descriptions[0]);
	for (size_t i = 0; i < host->count; i++)
		add_device(&gathering, host->devices[i]);
	msg_imaged_hello_encode(&hello, buffer);
	for (size_t i = 0; i < gathering.description_count; i++)
		description_put(gathering.descriptions[i]);
	wire_memory_done(&memory);
}
