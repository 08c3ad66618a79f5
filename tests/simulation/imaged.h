/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the model of imaged share. */
#ifndef SLUICE_TESTS_SIMULATION_IMAGED_H
#define SLUICE_TESTS_SIMULATION_IMAGED_H

#include "tests/simulation/parts.h"

void imaged_answer(
	struct world *world, struct model_imaged *imaged, const struct imaged_to_broker *message);
void imaged_refuse_as(struct world *world, struct model_imaged *imaged, uint64_t request,
	enum error_class class, const char *msg, const char *errno_name);
void imaged_refuse(
	struct world *world, struct model_imaged *imaged, uint64_t request, const char *msg);
struct open_image *imaged_find_open(struct model_imaged *imaged, const char *device);
void imaged_revoke_leases(struct model_imaged *imaged, const struct image *image, uint64_t join);
void imaged_end_quarantine(struct world *world, struct model_imaged *imaged);
void imaged_touch(struct world *world, struct image *image, unsigned cluster);
struct device_state imaged_state_of(const struct image *image);
struct open_image *imaged_open_for_job(struct world *world, struct model_imaged *imaged,
	uint64_t request, const char *device, const char *job);
void imaged_open_job(
	struct world *world, struct model_imaged *imaged, const struct msg_open_job *asked);
void imaged_map(struct world *world, struct model_imaged *imaged, const struct msg_map *asked);
void imaged_prepare_join(
	struct world *world, struct model_imaged *imaged, const struct msg_prepare_join *asked);
void imaged_confirm_join(
	struct world *world, struct model_imaged *imaged, const struct msg_confirm_join *asked);
void imaged_end_join(
	struct world *world, struct model_imaged *imaged, const struct msg_end_join *asked);
void imaged_reserve(
	struct world *world, struct model_imaged *imaged, const struct msg_reserve *asked);
void imaged_zero(struct world *world, struct model_imaged *imaged, const struct msg_zero *asked);
void imaged_commit(
	struct world *world, struct model_imaged *imaged, const struct msg_commit *asked);
void imaged_abort(struct world *world, struct model_imaged *imaged, const struct msg_abort *asked);
void imaged_finish(
	struct world *world, struct model_imaged *imaged, const struct msg_finish *asked);
void imaged_close_job(
	struct world *world, struct model_imaged *imaged, const struct msg_close_job *asked);
/* What guests do, in the eyes of the broker; anything, as far as the core may rely on it. */
void imaged_report_guest(struct world *world, struct model_imaged *imaged,
	const struct open_image *open, unsigned cluster);
void imaged_plan(struct world *world, struct model_imaged *imaged, const struct msg_plan *asked);
void imaged_allocation(
	struct world *world, struct model_imaged *imaged, const struct msg_allocation *asked);

#endif
