/* SPDX-License-Identifier: Apache-2.0 */
/* The lock guards pointers and counts only; it is never held across a read or a close. */
#include "imaged/live_chain.h"

#include <stdlib.h>
#include <string.h>

#include "common/check.h"

static struct chain_view *view_new(struct chain *chain)
{
	struct chain_view *view = must_calloc(1, sizeof *view);

	view->chain = chain;
	return view;
}

void live_chain_init(struct live_chain *live, struct chain *chain)
{
	pthread_mutex_init(&live->lock, NULL);
	pthread_cond_init(&live->left, NULL);
	live->current = view_new(chain);
}

void live_chain_done(struct live_chain *live)
{
	bug_if(live->current->readers != 0);
	chain_free(live->current->chain);
	free(live->current);
	pthread_cond_destroy(&live->left);
	pthread_mutex_destroy(&live->lock);
}

struct chain_view *live_chain_enter(struct live_chain *live)
{
	struct chain_view *view;

	pthread_mutex_lock(&live->lock);
	view = live->current;
	view->readers++;
	pthread_mutex_unlock(&live->lock);
	return view;
}

void live_chain_leave(struct live_chain *live, struct chain_view *view)
{
	pthread_mutex_lock(&live->lock);
	bug_if(view->readers == 0);
	view->readers--;
	if (view != live->current && view->readers == 0)
		pthread_cond_broadcast(&live->left);
	pthread_mutex_unlock(&live->lock);
}

/* Lets new readers into `next` and waits until the last one has left what was current; the caller has that now. */
static struct chain_view *replace(struct live_chain *live, struct chain *next)
{
	struct chain_view *old;

	pthread_mutex_lock(&live->lock);
	old = live->current;
	live->current = view_new(next);
	while (old->readers > 0)
		pthread_cond_wait(&live->left, &live->lock);
	pthread_mutex_unlock(&live->lock);
	return old;
}

/* Readers see the long chain, then a short stand-in of the same open files while the long one is cut, then that. */
void live_chain_drop(struct live_chain *live, size_t kept, const char *name)
{
	struct chain *chain = live->current->chain;
	struct chain *stand_in = must_calloc(1, sizeof *stand_in);

	bug_if(kept < 1 || kept > chain->count);
	*stand_in = *chain;
	stand_in->count = 1 + chain->count - kept;
	memmove(&stand_in->layers[1], &chain->layers[kept],
		(stand_in->count - 1) * sizeof chain->layers[0]);
	free(replace(live, stand_in));
	chain_drop(chain, kept, name);
	free(replace(live, chain));
	free(stand_in);
}
