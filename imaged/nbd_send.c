/* SPDX-License-Identifier: Apache-2.0 */
/* The pieces of an NBD answer go to the kernel together.
 *
 * nbdkit sends an answer in up to three pieces, all but the last with MSG_MORE.  A TCP socket keeps those back, a UNIX socket does not:
 * its client is woken for each.  This library is preloaded into nbdkit (main.c), so that its send() stands before the C library's: a short
 * piece that has more to follow is kept and goes with the next one.  Without it all works the same, only slower (docs/decisions/0010).
 *
 * Invariants: a socket gets the bytes it would have got, in the same order.  What a thread keeps is for one socket, and the same thread
 * sends it with the next piece for that socket: nbdkit holds a connection's lock from the first piece of an answer to the last, and none
 * of its threads serves two connections.  What was kept when a socket failed is forgotten. */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define KEPT_BYTES_MAX 64 /* the longest that goes before bytes of a disk or a map has 32 */

/* In the thread's static block: nothing is allocated for it while an answer is sent. */
static __thread __attribute__((tls_model("initial-exec"))) struct {
	int socket;
	size_t length;
	char bytes[KEPT_BYTES_MAX];
} kept;

/* As send(); the bytes that were kept do not count. */
static ssize_t send_with_kept(int socket, const void *bytes, size_t length, int flags)
{
	for (;;) {
		struct iovec pieces[] = {{kept.bytes, kept.length}, {(void *)bytes, length}};
		struct msghdr message = {.msg_iov = pieces, .msg_iovlen = 2};
		ssize_t sent = sendmsg(socket, &message, flags);
		size_t of_kept;

		if (sent < 0) {
			if (errno != EINTR && errno != EAGAIN) /* then it is asked for again */
				kept.length = 0;
			return -1;
		}
		of_kept = (size_t)sent < kept.length ? (size_t)sent : kept.length;
		memmove(kept.bytes, kept.bytes + of_kept, kept.length - of_kept);
		kept.length -= of_kept;
		if ((size_t)sent > of_kept || (kept.length == 0 && length == 0))
			return sent - (ssize_t)of_kept;
	}
}

ssize_t send(int socket, const void *bytes, size_t length, int flags)
{
	if (kept.socket != socket)
		kept.length = 0;
	if (flags & MSG_MORE && length <= KEPT_BYTES_MAX - kept.length) {
		memcpy(kept.bytes + kept.length, bytes, length);
		kept.length += length;
		kept.socket = socket;
		return (ssize_t)length;
	}
	if (kept.length > 0)
		return send_with_kept(socket, bytes, length, flags);
	return sendto(socket, bytes, length, flags, NULL, 0);
}
