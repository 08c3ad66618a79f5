/* SPDX-License-Identifier: Apache-2.0 */
/* What nbdkit reads from its connections and sends to them: preloaded into it (main.c), so that this read() and send() stand before the C
 * library's.  Two things are mended (docs/decisions/0010):
 *
 * - The pieces of an answer go to the kernel together.  nbdkit sends all but the last with MSG_MORE, which a UNIX socket knows nothing of:
 *   its client is woken for each.
 * - A client that goes away does not end the process.  nbdkit 1.32 gives up a connection that fails while other threads are about to
 *   send answers on it, and an assertion of its own ends it then.  So a failed send ends the connection and counts as done, and a read
 *   fails only when no other thread owes an answer: the reader holds the lock for reading, so that no request comes meanwhile.
 *
 * Invariants: a client gets the bytes it would have got, in the same order, or a prefix of them and the end.  A thread owes an answer
 * from the request it read to the last piece it sends; `owed` counts those threads.  A thread that sends what it does not owe negotiates, or
 * has nothing to do with NBD: all it does is the C library's, as with TLS, which uses neither function. */
#include <endian.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define SOCKETS_MAX    65536 /* connections with a greater descriptor are as nbdkit has them */
#define KEPT_BYTES_MAX 64    /* what goes before the bytes of a read has 28 */
#define SKIPPED_MAX    (UINT32_C(128) << 20) /* with a longer write nbdkit gives the connection up */

/* "Request message" of the NBD protocol; big-endian. */
#define REQUEST_MAGIC 0x25609513u
enum { REQUEST_WRITE = 1, REQUEST_DISC = 2 };
struct request {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t cookie, offset;
	uint32_t length;
} __attribute__((packed));

static atomic_uint owed[SOCKETS_MAX];

/* In the thread's static block: nothing is allocated for it. */
static __thread __attribute__((tls_model("initial-exec"))) struct {
	bool negotiates;
	bool owes;
	int socket;	  /* to which it owes */
	uint32_t payload; /* what the request still has of its bytes */
	size_t kept_length;
	char kept[KEPT_BYTES_MAX];
} mine;

static void settle(void)
{
	if (mine.owes)
		atomic_fetch_sub(&owed[mine.socket], 1);
	mine.owes = false;
	mine.kept_length = 0;
}

/* Before the connection is given up; those that send are done at once then.  Keeps errno. */
static void wait_for_others(int socket)
{
	const struct timespec pause = {.tv_nsec = 1000000};
	int number = errno;

	settle();
	shutdown(socket, SHUT_RDWR);
	while (atomic_load(&owed[socket]) > 0)
		nanosleep(&pause, NULL);
	errno = number;
}

static bool is_error(ssize_t r)
{
	return r < 0 && errno != EINTR && errno != EAGAIN;
}

static ssize_t plain_read(int file, void *buffer, size_t length)
{
	return syscall(SYS_read, file, buffer, length);
}

static bool is_socket(int file)
{
	int type;
	socklen_t size = sizeof type;

	return file < SOCKETS_MAX && getsockopt(file, SOL_SOCKET, SO_TYPE, &type, &size) == 0;
}

static bool can_go_on(const struct request *request)
{
	return request->magic == htobe32(REQUEST_MAGIC) &&
	       (request->type != htobe16(REQUEST_WRITE) || be32toh(request->length) <= SKIPPED_MAX);
}

/* Whole, or as much as there is before the end. */
static ssize_t read_request(int socket, struct request *request)
{
	size_t done = 0;
	ssize_t r = 0;

	settle();
	while (done < sizeof *request) {
		r = plain_read(socket, (char *)request + done, sizeof *request - done);
		if (r == 0 || is_error(r))
			break;
		done += r > 0 ? (size_t)r : 0;
	}
	if (done < sizeof *request || !can_go_on(request)) {
		if (done > 0 || r < 0)
			wait_for_others(socket);
		return done > 0 ? (ssize_t)done : r;
	}
	if (request->type == htobe16(REQUEST_DISC))
		return (ssize_t)done;
	mine.socket = socket;
	mine.owes = true;
	mine.payload = request->type == htobe16(REQUEST_WRITE) ? be32toh(request->length) : 0;
	atomic_fetch_add(&owed[socket], 1);
	return (ssize_t)done;
}

ssize_t read(int file, void *buffer, size_t length)
{
	bool is_payload = mine.owes && file == mine.socket && mine.payload > 0;
	ssize_t r;

	if (!is_payload && length == sizeof(struct request) && !mine.negotiates && is_socket(file))
		return read_request(file, buffer);
	r = plain_read(file, buffer, length);
	if (is_payload && r > 0)
		mine.payload -= (uint32_t)r < mine.payload ? (uint32_t)r : mine.payload;
	if (is_payload && (r == 0 || is_error(r)))
		wait_for_others(file);
	return r;
}

/* What was kept, and then these; if that fails the connection ends. */
static void send_whole(int socket, const void *bytes, size_t length, int flags)
{
	struct iovec pieces[] = {{mine.kept, mine.kept_length}, {(void *)bytes, length}};
	struct msghdr message = {.msg_iov = pieces, .msg_iovlen = 2};

	mine.kept_length = 0;
	while (pieces[0].iov_len + pieces[1].iov_len > 0) {
		ssize_t sent = sendmsg(socket, &message, flags | MSG_NOSIGNAL);

		if (is_error(sent)) {
			shutdown(socket, SHUT_RDWR);
			return;
		}
		for (int i = 0; i < 2 && sent > 0; i++) {
			size_t of_this =
				(size_t)sent < pieces[i].iov_len ? (size_t)sent : pieces[i].iov_len;

			pieces[i].iov_base = (char *)pieces[i].iov_base + of_this;
			pieces[i].iov_len -= of_this;
			sent -= (ssize_t)of_this;
		}
	}
}

ssize_t send(int socket, const void *bytes, size_t length, int flags)
{
	if (!mine.owes && !mine.negotiates && socket >= 0 && socket < SOCKETS_MAX) {
		atomic_store(&owed[socket], 0); /* a new connection's greeting */
		mine.negotiates = true;
	}
	if (!mine.owes || socket != mine.socket)
		return sendto(socket, bytes, length, flags, NULL, 0);
	if (flags & MSG_MORE && length <= KEPT_BYTES_MAX - mine.kept_length) {
		memcpy(mine.kept + mine.kept_length, bytes, length);
		mine.kept_length += length;
		return (ssize_t)length;
	}
	send_whole(socket, bytes, length, flags);
	if (!(flags & MSG_MORE))
		settle();
	return (ssize_t)length;
}
