/* SPDX-License-Identifier: Apache-2.0 */
/* A ring of links inside the objects themselves: an object can be in several lists, leaves one
 * without knowing which, and leaving twice does no harm.  A head and a link are the same thing;
 * a link that is in no list points at itself. */
#ifndef SLUICE_BROKER_CORE_LIST_H
#define SLUICE_BROKER_CORE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
	struct list *next, *previous;
};

/* The object of `type` whose `member` is at `pointer`. */
#define container_of(pointer, type, member) \
	((type *)(void *)((char *)(pointer)-offsetof(type, member)))

/* for_each may not remove the current entry; for_each_safe may remove it, but no other one. */
#define list_for_each(position, head, member)                                                     \
	for ((position) = container_of((head)->next, __typeof__(*(position)), member);            \
		&(position)->member != (head); (position) = container_of((position)->member.next, \
						       __typeof__(*(position)), member))

#define list_for_each_safe(position, following, head, member)                                     \
	for ((position) = container_of((head)->next, __typeof__(*(position)), member),            \
	    (following) = container_of((position)->member.next, __typeof__(*(position)), member); \
		&(position)->member != (head); (position) = (following),                          \
	    (following) = container_of((following)->member.next, __typeof__(*(position)), member))

#define list_first(head, type, member) \
	(list_is_empty(head) ? NULL : container_of((head)->next, type, member))

static inline void list_init(struct list *list)
{
	list->next = list->previous = list;
}

static inline bool list_is_empty(const struct list *head)
{
	return head->next == head;
}

static inline bool list_is_linked(const struct list *link)
{
	return link->next != link;
}

static inline void list_remove(struct list *link)
{
	link->next->previous = link->previous;
	link->previous->next = link->next;
	list_init(link);
}

static inline void list_append(struct list *head, struct list *link)
{
	link->previous = head->previous;
	link->next = head;
	head->previous->next = link;
	head->previous = link;
}

/* At the end of the list, unless it is in one already. */
static inline void list_append_once(struct list *head, struct list *link)
{
	if (!list_is_linked(link))
		list_append(head, link);
}

#endif
