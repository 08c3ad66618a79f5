/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens, found by their text; those of ended jobs stand in a list by the number of the terminal
 * event, so that pruning looks only at its beginning. */
#include "broker/core/tokens.h"

#include <stdlib.h>
#include <string.h>

#include "broker/core/outbox.h"
#include "broker/core/state.h"
#include "common/check.h"

struct token *token_find(const struct core *core, const char *text)
{
	return index_find_name(&core->tokens, text);
}

static struct token *token_add(
	struct core *core, const char *text, const struct record_token *record)
{
	struct token *token = must_calloc(1, sizeof(*token));
	unsigned char *arguments = must_calloc(1, record->arguments.length + 1);

	memcpy(arguments, record->arguments.bytes, record->arguments.length);
	token->text = must_strdup(text);
	token->record = *record;
	token->record.arguments = (struct wire_bytes){arguments, record->arguments.length};
	list_init(&token->in_ended);
	index_add_name(&core->tokens, token->text, token);
	return token;
}

static void token_free(struct token *token)
{
	list_remove(&token->in_ended);
	free((void *)token->record.arguments.bytes);
	free(token->text);
	free(token);
}

static void token_store(struct core *core, const struct token *token)
{
	wire_buffer_clear(&core->buffer);
	record_token_encode(&token->record, &core->buffer);
	store_put(core, STORE_TOKENS, token->text, strlen(token->text));
}

static struct token *token_of(const struct core *core, const struct job *job)
{
	return job->record.token != NULL ? token_find(core, job->record.token) : NULL;
}

void token_take(struct core *core, struct job *job)
{
	struct record_token record = {.arguments = job->arguments};

	if (job->record.token != NULL)
		token_add(core, job->record.token, &record)->starting = job;
}

void token_note(struct core *core, const struct job *job)
{
	struct token *token = token_of(core, job);

	if (token == NULL)
		return;
	token->starting = NULL;
	token->record.number = job->record.number;
	token_store(core, token);
}

void token_give_up(struct core *core, const struct job *job)
{
	struct token *token = token_of(core, job);

	if (token == NULL || token->starting != job)
		return;
	index_remove_name(&core->tokens, token->text);
	token_free(token);
}

void token_end(struct core *core, const struct job *job, uint64_t seq)
{
	struct token *token = token_of(core, job);

	if (token == NULL)
		return;
	token->record.ended_seq = seq;
	list_append_once(&core->ended_tokens, &token->in_ended);
	token_store(core, token);
}

static void forget(struct core *core, struct token *token)
{
	store_delete(core, STORE_TOKENS, token->text, strlen(token->text));
	index_remove_name(&core->tokens, token->text);
	token_free(token);
}

/* At the limit the tokens of the jobs that ended first are forgotten early. */
void tokens_prune(struct core *core, uint64_t first)
{
	struct token *token, *following;

	list_for_each_safe(token, following, &core->ended_tokens, in_ended) {
		if (token->record.ended_seq >= first && core->tokens.count <= TOKENS_MAX)
			return;
		forget(core, token);
	}
}

int token_load(
	struct core *core, const char *text, const void *bytes, size_t length, struct err *err)
{
	struct record_token record;

	if (record_token_decode(bytes, length, &core->memory, &record, err) < 0)
		return err_wrap(err, "token '%s'", text);
	token_add(core, text, &record);
	return 0;
}

static int compare_ends(const void *left, const void *right)
{
	const struct token *const *a = left, *const *b = right;

	return ((*a)->record.ended_seq > (*b)->record.ended_seq) -
	       ((*a)->record.ended_seq < (*b)->record.ended_seq);
}

void tokens_started(struct core *core)
{
	struct token **tokens = must_calloc(core->tokens.count + 1, sizeof(struct token *));
	struct token *token;
	size_t place = 0, count = 0;

	while ((token = index_next(&core->tokens, &place)) != NULL)
		if (token->record.ended_seq != 0)
			tokens[count++] = token;
	qsort(tokens, count, sizeof(struct token *), compare_ends);
	for (size_t i = 0; i < count; i++)
		list_append(&core->ended_tokens, &tokens[i]->in_ended);
	free(tokens);
}

void tokens_free(struct core *core)
{
	struct token *token;
	size_t place = 0;

	while ((token = index_next(&core->tokens, &place)) != NULL)
		token_free(token);
	index_done(&core->tokens);
}
