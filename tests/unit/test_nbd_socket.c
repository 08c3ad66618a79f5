/* SPDX-License-Identifier: Apache-2.0 */
/* read() and send() as nbdkit gets them.  The socket is mostly one of packets, so that what went together is seen; each thread that reads
 * a request is one of nbdkit's workers. */
#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/unit/unit.h"

#define MAGIC	      0x25609513u
#define REQUEST_BYTES 28

enum { READ = 0, WRITE = 1 };

/* What the kernel does with the next pieces: takes at most so many bytes at a time, or fails once. */
static size_t most = SIZE_MAX;
static int next_error;

ssize_t sendmsg(int socket, const struct msghdr *message, int flags)
{
	struct iovec pieces[2] = {message->msg_iov[0], message->msg_iov[1]};
	struct msghdr shorter = {.msg_iov = pieces, .msg_iovlen = 2};

	if (next_error) {
		errno = next_error;
		next_error = 0;
		return -1;
	}
	if (pieces[0].iov_len > most)
		pieces[0].iov_len = most;
	if (pieces[1].iov_len > most - pieces[0].iov_len)
		pieces[1].iov_len = most - pieces[0].iov_len;
	return syscall(SYS_sendmsg, socket, &shorter, flags);
}

static int ours, theirs;

static void open_pair(int type)
{
	int pair[2];

	ck_assert_int_eq(socketpair(AF_UNIX, type, 0, pair), 0);
	ours = pair[0];
	theirs = pair[1];
}

static void close_pair(void)
{
	close(ours);
	close(theirs);
}

/* The client's side; not through what is tested. */
static void client_says(const void *bytes, size_t length)
{
	ck_assert_int_eq(syscall(SYS_write, theirs, bytes, length), (ssize_t)length);
}

static void client_asks(uint32_t magic, uint16_t type, uint32_t bytes)
{
	unsigned char request[REQUEST_BYTES] = "";
	uint32_t words[] = {htobe32(magic), htobe32(bytes)};
	uint16_t kind = htobe16(type);

	memcpy(request, &words[0], 4);
	memcpy(request + 6, &kind, 2);
	memcpy(request + 24, &words[1], 4);
	client_says(request, sizeof request);
}

static void take_request(void)
{
	unsigned char request[REQUEST_BYTES];

	ck_assert_int_eq(read(ours, request, sizeof request), REQUEST_BYTES);
}

static void ask(uint16_t type, uint32_t bytes)
{
	client_asks(MAGIC, type, bytes);
	take_request();
}

static void expect(const char *wanted)
{
	char bytes[5000];
	ssize_t length = recv(theirs, bytes, sizeof bytes, MSG_DONTWAIT);

	ck_assert_int_eq(length, (ssize_t)strlen(wanted));
	ck_assert_mem_eq(bytes, wanted, strlen(wanted));
}

static void expect_nothing(void)
{
	char byte;

	ck_assert_int_eq(recv(theirs, &byte, 1, MSG_DONTWAIT), -1);
	ck_assert_int_eq(errno, EAGAIN);
}

static void say(const char *text, int flags)
{
	ck_assert_int_eq(send(ours, text, strlen(text), flags), (ssize_t)strlen(text));
}

START_TEST(pieces_of_an_answer_go_together)
{
	open_pair(SOCK_SEQPACKET);
	for (int i = 0; i < 2; i++) {
		ask(READ, 5);
		say("header ", MSG_MORE);
		say("offset ", MSG_MORE);
		expect_nothing();
		say("bytes", 0);
		expect("header offset bytes");
		ask(WRITE, 0);
		say("alone", 0);
		expect("alone");
	}
	close_pair();
}
END_TEST

START_TEST(what_nobody_asked_for_goes_as_it_is)
{
	open_pair(SOCK_SEQPACKET);
	say("option ", MSG_MORE);
	expect("option ");
	say("data", 0);
	expect("data");
	next_error = EPIPE; /* not for this */
	client_asks(MAGIC, READ, 5);
	take_request(); /* data of an option that looks like a request */
	say("option ", MSG_MORE);
	expect("option ");
	close(theirs);
	ck_assert_int_eq(send(ours, "data", 4, MSG_NOSIGNAL), -1);
	ck_assert_int_eq(errno, EPIPE);
	close(ours);
}
END_TEST

START_TEST(what_has_no_room_goes_at_once_after_what_was_kept)
{
	char sixty[61] = "", wanted[100];

	memset(sixty, 'x', 60);
	snprintf(wanted, sizeof wanted, "header %s", sixty);
	open_pair(SOCK_SEQPACKET);
	ask(READ, 5);
	say("header ", MSG_MORE);
	say(sixty, MSG_MORE);
	expect(wanted);
	say("end", 0);
	expect("end");
	close_pair();
}
END_TEST

START_TEST(what_the_kernel_takes_in_parts_arrives_whole_and_in_order)
{
	char arrived[50] = "";

	for (most = 1; most <= 44; most++) {
		for (int error = 0; error <= EAGAIN; error += EAGAIN) {
			open_pair(SOCK_STREAM);
			ask(READ, 30);
			say("header ", MSG_MORE);
			say("offset ", MSG_MORE);
			next_error = error;
			say("and then the bytes of the disk", 0);
			ck_assert_int_eq(recv(theirs, arrived, sizeof arrived, 0), 44);
			ck_assert_str_eq(arrived, "header offset and then the bytes of the disk");
			close_pair();
		}
	}
}
END_TEST

static void *send_the_rest(void *unused)
{
	usleep(10000);
	client_says("\0\0\0\0cookie..offset..\0\0\0\5", 24);
	return unused;
}

START_TEST(a_request_that_comes_in_parts_is_one)
{
	pthread_t thread;

	open_pair(SOCK_STREAM);
	client_says("\x25\x60\x95\x13", 4);
	ck_assert_int_eq(pthread_create(&thread, NULL, send_the_rest, NULL), 0);
	take_request();
	pthread_join(thread, NULL);
	say("header ", MSG_MORE);
	expect_nothing();
	say("bytes", 0);
	expect("header bytes");
	close_pair();
}
END_TEST

START_TEST(an_answer_that_cannot_be_sent_counts_as_sent_and_ends_the_connection)
{
	char bytes[100];

	open_pair(SOCK_STREAM);
	ask(READ, 100);
	say("header", MSG_MORE);
	next_error = ECONNRESET;
	say("more than there is room for, sixty-four bytes or so with the header", MSG_MORE);
	say("bytes", MSG_MORE);
	say("bytes", 0);
	ck_assert_int_eq(recv(theirs, bytes, sizeof bytes, 0), 0);
	ck_assert_int_eq(read(ours, bytes, REQUEST_BYTES), 0);
	close_pair();
}
END_TEST

/* ---- a connection that fails */

static atomic_bool is_answered, has_failed;

static void *fail_to_read(void *is_payload)
{
	char bytes[REQUEST_BYTES];

	if (is_payload)
		take_request();
	read(ours, bytes, sizeof bytes);
	atomic_store(&has_failed, true);
	ck_assert(atomic_load(&is_answered));
	return NULL;
}

static void expect_wait(bool is_payload)
{
	pthread_t thread;

	atomic_store(&is_answered, false);
	atomic_store(&has_failed, false);
	ck_assert_int_eq(pthread_create(&thread, NULL, fail_to_read, is_payload ? &ours : NULL), 0);
	for (int i = 0; i < 200 && !atomic_load(&has_failed); i++)
		usleep(1000);
	atomic_store(&is_answered, true);
	say("bytes", 0);
	pthread_join(thread, NULL);
	close_pair();
}

START_TEST(a_connection_fails_when_nobody_owes_an_answer)
{
	for (int i = 0; i < 4; i++) {
		open_pair(SOCK_STREAM);
		ask(READ, 5);
		switch (i) {
		case 0:
			client_says("half", 4);
			break;
		case 1:
			client_asks(MAGIC + 1, READ, 5);
			break;
		case 2:
			client_asks(MAGIC, WRITE, UINT32_MAX);
			break;
		case 3:
			client_asks(MAGIC, WRITE, 5000);
			break;
		}
		shutdown(theirs, SHUT_WR);
		expect_wait(i == 3);
	}
}
END_TEST

START_TEST(bytes_of_a_write_are_no_request)
{
	char bytes[REQUEST_BYTES];

	open_pair(SOCK_SEQPACKET);
	ask(WRITE, REQUEST_BYTES);
	client_says("twenty-eight bytes of a disk", REQUEST_BYTES);
	ck_assert_int_eq(read(ours, bytes, sizeof bytes), REQUEST_BYTES);
	say("header ", MSG_MORE);
	say("offset", 0);
	expect("header offset");
	ask(READ, 5);
	say("header ", MSG_MORE);
	say("offset", 0);
	expect("header offset");
	close_pair();
}
END_TEST

static void *take_and_end(void *unused)
{
	take_request();
	return unused;
}

static void *greet(void *unused)
{
	say("hello", 0);
	return unused;
}

static void run_in_thread(void *(*what)(void *))
{
	pthread_t thread;

	ck_assert_int_eq(pthread_create(&thread, NULL, what, NULL), 0);
	pthread_join(thread, NULL);
}

START_TEST(a_new_connection_owes_nothing_of_the_one_before)
{
	int before;
	char bytes[REQUEST_BYTES];

	open_pair(SOCK_STREAM);
	before = ours;
	client_asks(MAGIC, READ, 5);
	run_in_thread(take_and_end);
	close_pair();

	open_pair(SOCK_STREAM);
	ck_assert_int_eq(ours, before);
	run_in_thread(greet);
	client_says("half", 4);
	shutdown(theirs, SHUT_WR);
	ck_assert_int_eq(read(ours, bytes, sizeof bytes), 4);
	close_pair();
}
END_TEST

UNIT_MAIN("nbd_socket", pieces_of_an_answer_go_together, what_nobody_asked_for_goes_as_it_is,
	what_has_no_room_goes_at_once_after_what_was_kept,
	what_the_kernel_takes_in_parts_arrives_whole_and_in_order,
	a_request_that_comes_in_parts_is_one,
	an_answer_that_cannot_be_sent_counts_as_sent_and_ends_the_connection,
	a_connection_fails_when_nobody_owes_an_answer, bytes_of_a_write_are_no_request,
	a_new_connection_owes_nothing_of_the_one_before)
