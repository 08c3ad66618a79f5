/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens of block_stream: a repeat is recognised as long as the terminal event of its job is in
 * the log. */
#ifndef SLUICE_BROKER_CORE_TOKENS_H
#define SLUICE_BROKER_CORE_TOKENS_H

#include <stddef.h>
#include <stdint.h>

#include "common/attributes.h"
#include "common/err.h"
#include "schemas/wire.h"

struct core;
struct job;
struct token;

/* NULL: not known. */
struct token *token_find(const struct core *core, const char *text);
/* The job's token, if it has one, is taken from now on; not stored yet. */
void token_take(struct core *core, struct job *job);
/* The job is accepted: stored. */
void token_note(struct core *core, const struct job *job);
/* The job is not accepted: its token is free again. */
void token_give_up(struct core *core, const struct job *job);
/* The job's terminal event is `seq`. */
void token_end(struct core *core, const struct job *job, uint64_t seq);
/* Forgets those whose jobs ended before `first`. */
void tokens_prune(struct core *core, uint64_t first);
int MUST_CHECK token_load(
	struct core *core, const char *text, const void *bytes, size_t length, struct err *err);
/* All are loaded. */
void tokens_started(struct core *core);
void tokens_free(struct core *core);

#endif
