/* SPDX-License-Identifier: Apache-2.0 */
/* send() as nbdkit gets it; the socket is one of packets, so that what went together is seen. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/unit/unit.h"

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

START_TEST(pieces_with_more_to_follow_go_with_the_last)
{
	open_pair(SOCK_SEQPACKET);
	for (int i = 0; i < 2; i++) {
		say("header ", MSG_MORE);
		say("offset ", MSG_MORE);
		expect_nothing();
		say("bytes", 0);
		expect("header offset bytes");
		say("alone", 0);
		expect("alone");
	}
	close_pair();
}
END_TEST

START_TEST(what_has_no_room_goes_at_once_after_what_was_kept)
{
	char sixty[61] = "", wanted[100];

	memset(sixty, 'x', 60);
	snprintf(wanted, sizeof wanted, "header %s", sixty);
	open_pair(SOCK_SEQPACKET);
	say("header ", MSG_MORE);
	say(sixty, MSG_MORE);
	expect(wanted);
	say("end", 0);
	expect("end");
	close_pair();
}
END_TEST

START_TEST(an_end_without_bytes_sends_what_was_kept)
{
	open_pair(SOCK_SEQPACKET);
	say("header", MSG_MORE);
	say("", 0);
	expect("header");
	close_pair();
}
END_TEST

/* As nbdkit does it. */
static void send_all(const char *bytes, size_t length, int flags)
{
	while (length > 0) {
		ssize_t sent = send(ours, bytes, length, flags);

		if (sent < 0) {
			ck_assert(errno == EINTR || errno == EAGAIN);
			continue;
		}
		ck_assert_int_gt(sent, 0);
		bytes += sent;
		length -= (size_t)sent;
	}
}

START_TEST(what_the_kernel_takes_in_parts_arrives_whole_and_in_order)
{
	static const char text[] = "header offset and then the bytes of the disk";
	char arrived[sizeof text] = "";
	const size_t length = sizeof text - 1;

	for (most = 1; most <= length; most++) {
		for (int error = 0; error <= EAGAIN; error += EAGAIN) {
			open_pair(SOCK_STREAM);
			next_error = error;
			send_all(text, 7, MSG_MORE);
			send_all(text + 7, 7, MSG_MORE);
			send_all(text + 14, length - 14, 0);
			ck_assert_int_eq(recv(theirs, arrived, sizeof arrived, 0), (ssize_t)length);
			ck_assert_str_eq(arrived, text);
			close_pair();
		}
	}
}
END_TEST

START_TEST(what_a_failed_socket_was_to_get_no_other_gets)
{
	open_pair(SOCK_SEQPACKET);
	say("lost ", MSG_MORE);
	next_error = EPIPE;
	ck_assert_int_eq(send(ours, "bytes", 5, 0), -1);
	ck_assert_int_eq(errno, EPIPE);
	say("kept ", MSG_MORE);
	say("bytes", 0);
	expect("kept bytes");

	int first = ours;
	say("given up ", MSG_MORE);
	open_pair(SOCK_SEQPACKET);
	ck_assert_int_ne(ours, first);
	say("own", 0);
	expect("own");
	close_pair();
}
END_TEST

UNIT_MAIN("nbd_send", pieces_with_more_to_follow_go_with_the_last,
	what_has_no_room_goes_at_once_after_what_was_kept, an_end_without_bytes_sends_what_was_kept,
	what_the_kernel_takes_in_parts_arrives_whole_and_in_order,
	what_a_failed_socket_was_to_get_no_other_gets)
