/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/guest/journal.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/check.h"

struct journal {
	int fd;
	const char *writes; /* the record of writes; NULL: there is none */
	uint64_t last;	    /* request */
	pthread_mutex_t lock;
};

struct journal *journal_open(const char *path)
{
	struct journal *journal = must_calloc(1, sizeof *journal);

	journal->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (journal->fd < 0) {
		perror(path);
		exit(2);
	}
	journal->writes = getenv("SLUICE_WRITE_LOG");
	pthread_mutex_init(&journal->lock, NULL);
	return journal;
}

static void note(struct journal *journal, char what, uint64_t request, uint64_t offset,
	uint64_t length, const unsigned char *bytes)
{
	uint64_t numbers[4] = {request, offset, length, 0};
	struct stat status;

	if (journal->writes && stat(journal->writes, &status) == 0)
		numbers[3] = (uint64_t)status.st_size;
	bug_if(write(journal->fd, &what, 1) != 1 ||
		write(journal->fd, numbers, sizeof numbers) != (ssize_t)sizeof numbers);
	bug_if(bytes && write(journal->fd, bytes, length) != (ssize_t)length);
}

uint64_t journal_begin(struct journal *journal, char what, uint64_t offset, uint64_t length,
	const unsigned char *bytes)
{
	uint64_t request;

	if (!journal)
		return 0;
	pthread_mutex_lock(&journal->lock);
	request = ++journal->last;
	note(journal, what, request, offset, length, bytes);
	pthread_mutex_unlock(&journal->lock);
	return request;
}

void journal_answer(struct journal *journal, uint64_t request, bool is_done)
{
	if (!journal)
		return;
	pthread_mutex_lock(&journal->lock);
	note(journal, is_done ? 'd' : 'x', request, 0, 0, NULL);
	pthread_mutex_unlock(&journal->lock);
}

void journal_mark(struct journal *journal)
{
	if (!journal)
		return;
	pthread_mutex_lock(&journal->lock);
	note(journal, 'm', 0, 0, 0, NULL);
	pthread_mutex_unlock(&journal->lock);
}
