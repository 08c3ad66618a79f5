/* SPDX-License-Identifier: Apache-2.0 */
/* Peers that lie: a message that was true is changed in one place or a few, in any way that its
 * schema allows.  What comes of it for the images is the liar's fault; the broker must live on. */
#include <stdlib.h>
#include <string.h>

#include "schemas/wire_table.h"
#include "tests/simulation/parts.h"

static const struct wire_struct *const worker_tables[WORKER_TO_BROKER_COUNT] = {
	[WORKER_TO_BROKER_WORKER_HELLO] = &msg_worker_hello_table,
	[WORKER_TO_BROKER_JOINED] = &msg_joined_table,
	[WORKER_TO_BROKER_JOIN_REFUSED] = &msg_join_refused_table,
	[WORKER_TO_BROKER_LEFT] = &msg_left_table,
	[WORKER_TO_BROKER_COPY_PROGRESS] = &msg_copy_progress_table,
	[WORKER_TO_BROKER_COPIED] = &msg_copied_table,
	[WORKER_TO_BROKER_COPY_FAILED] = &msg_copy_failed_table,
	[WORKER_TO_BROKER_COPY_STOPPED] = &msg_copy_stopped_table,
};

static const struct wire_struct *const imaged_tables[IMAGED_TO_BROKER_COUNT] = {
	[IMAGED_TO_BROKER_IMAGED_HELLO] = &msg_imaged_hello_table,
	[IMAGED_TO_BROKER_IMAGE_ERROR] = &msg_image_error_table,
	[IMAGED_TO_BROKER_DEVICE_FAILED] = &msg_device_failed_table,
	[IMAGED_TO_BROKER_GUEST_REPORT] = &msg_guest_report_table,
	[IMAGED_TO_BROKER_ATTACHED] = &msg_attached_table,
	[IMAGED_TO_BROKER_DETACHED] = &msg_detached_table,
	[IMAGED_TO_BROKER_PLANNED] = &msg_planned_table,
	[IMAGED_TO_BROKER_ALLOCATION_PAGE] = &msg_allocation_page_table,
	[IMAGED_TO_BROKER_JOB_OPENED] = &msg_job_opened_table,
	[IMAGED_TO_BROKER_MAP_PAGE] = &msg_map_page_table,
	[IMAGED_TO_BROKER_JOIN_PREPARED] = &msg_join_prepared_table,
	[IMAGED_TO_BROKER_JOIN_CONFIRMED] = &msg_join_confirmed_table,
	[IMAGED_TO_BROKER_JOIN_ENDED] = &msg_join_ended_table,
	[IMAGED_TO_BROKER_RESERVED] = &msg_reserved_table,
	[IMAGED_TO_BROKER_ZEROED] = &msg_zeroed_table,
	[IMAGED_TO_BROKER_COMMITTED] = &msg_committed_table,
	[IMAGED_TO_BROKER_ABORTED] = &msg_aborted_table,
	[IMAGED_TO_BROKER_FINISHED] = &msg_finished_table,
	[IMAGED_TO_BROKER_UNFINISHED] = &msg_unfinished_table,
	[IMAGED_TO_BROKER_JOB_CLOSED] = &msg_job_closed_table,
};

static void change_struct(struct world *world, const struct wire_struct *table, void *object);

static uint64_t within(uint64_t value, const struct wire_field *field)
{
	if (value < field->min)
		return field->min;
	return value > field->max ? field->max : value;
}

static uint64_t another_number(struct world *world, uint64_t value, const struct wire_field *field)
{
	struct dice *dice = &world->dice;

	switch (dice_below(dice, 8)) {
	case 0:
		return field->min;
	case 1:
		return field->max;
	case 2:
		return within(value + 1, field);
	case 3:
		return within(value ? value - 1 : 1, field);
	case 4:
		return within(value + CLUSTER * dice_below(dice, 8), field);
	case 5:
		return within(value * 2, field);
	case 6:
		return within(dice_below(dice, 40) * CLUSTER, field);
	default:
		return within(dice_roll(dice) >> dice_below(dice, 63), field);
	}
}

static const char *another_text(struct world *world, const struct wire_field *field)
{
	static const char *const names[] = {"disk0", "disk1", "disk2", "imaged0", "imaged1",
		"worker0", "worker1", "job0", "realm", "other", "ENOSPC", "EIO", "/images/0.qcow2",
		"/images/1.qcow2"};
	static const char *const odd[] = {"", "x/y", "\xc3\xa4 %s %n", "{\"", "."};
	static char long_text[4096];
	uint64_t roll = dice_below(&world->dice, 20);
	size_t length =
		(size_t)(field->max < sizeof(long_text) - 1 ? field->max : sizeof(long_text) - 1);

	if (roll < 14 && strlen(names[roll]) <= field->max &&
		!(field->is_name && names[roll][0] == '/'))
		return names[roll];
	if (roll < 18 && !field->is_name && field->min == 0)
		return odd[roll % 5];
	memset(long_text, 'q', sizeof(long_text));
	long_text[length] = 0;
	return long_text;
}

static void change_list(struct world *world, const struct wire_field *field, char *object)
{
	size_t *count = (size_t *)(void *)(object + field->count_offset);
	char *items;

	memcpy(&items, object + field->offset, sizeof(items));
	if (*count == 0)
		return;
	switch (dice_below(&world->dice, 4)) {
	case 0:
		*count = dice_below(&world->dice, *count);
		return;
	case 1: /* one of them twice */
		memcpy(items + dice_below(&world->dice, *count) * field->item_size, items,
			field->item_size);
		return;
	case 2:
		if (field->kind == WIRE_UINT) {
			uint64_t *number =
				(uint64_t *)(void *)items + dice_below(&world->dice, *count);

			*number = another_number(world, *number, field);
			return;
		}
		break;
	default:
		break;
	}
	if (field->kind == WIRE_STRUCT)
		change_struct(world, field->fields,
			items + dice_below(&world->dice, *count) * field->item_size);
}

static void change_field(struct world *world, const struct wire_field *field, char *object)
{
	char *place = object + field->offset;

	if (field->is_list) {
		change_list(world, field, object);
		return;
	}
	switch (field->kind) {
	case WIRE_UINT:
		*(uint64_t *)(void *)place =
			another_number(world, *(uint64_t *)(void *)place, field);
		break;
	case WIRE_BOOL:
		*(bool *)place = !*(bool *)place;
		break;
	case WIRE_STR:
		*(const char **)(void *)place = another_text(world, field);
		break;
	case WIRE_ENUM:
		*(unsigned *)(void *)place =
			(unsigned)dice_below(&world->dice, field->values->count);
		break;
	case WIRE_STRUCT:
		change_struct(world, field->fields, place);
		break;
	case WIRE_BIN:
	case WIRE_ANY:
	case WIRE_COUNTS:
		break;
	}
}

static void change_struct(struct world *world, const struct wire_struct *table, void *object)
{
	if (table->count > 0)
		change_field(world, &table->fields[dice_below(&world->dice, table->count)], object);
}

static void lie_as_worker(struct world *world, struct wire_buffer *message)
{
	struct wire_memory memory = {0};
	struct worker_to_broker truth;

	if (worker_to_broker_decode(message->bytes, message->length, &memory, &truth, NULL) == 0 &&
		worker_tables[truth.type] != NULL) {
		do
			change_struct(world, worker_tables[truth.type], &truth.worker_hello);
		while (dice_percent(&world->dice, 40));
		wire_buffer_clear(message);
		worker_to_broker_encode(&truth, message);
	}
	wire_memory_done(&memory);
}

static void lie_as_imaged(struct world *world, struct wire_buffer *message)
{
	struct wire_memory memory = {0};
	struct imaged_to_broker truth;

	if (imaged_to_broker_decode(message->bytes, message->length, &memory, &truth, NULL) == 0 &&
		imaged_tables[truth.type] != NULL) {
		do
			change_struct(world, imaged_tables[truth.type], &truth.imaged_hello);
		while (dice_percent(&world->dice, 40));
		wire_buffer_clear(message);
		imaged_to_broker_encode(&truth, message);
	}
	wire_memory_done(&memory);
}

void lie(struct world *world, const struct process *process, struct wire_buffer *message)
{
	if (process->kind == PROCESS_WORKER)
		lie_as_worker(world, message);
	else
		lie_as_imaged(world, message);
}
