/* SPDX-License-Identifier: Apache-2.0 */
#include "imaged/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/link.h"
#include "common/log.h"
#include "common/random.h"
#include "imaged/guest_report.h"
#include "imaged/hello.h"
#include "imaged/request.h"
#include "schemas/errors.gen.h"

#define FRAME_BYTES_MAX	  ((size_t)4 << 20)
#define REQUESTS_MAX	  10000 /* in our hands; the broker has far fewer outstanding */
#define TIDY_MS		  200
#define WIND_DOWN_MS	  3000
#define WIND_DOWN_LOOK_MS 50

struct control {
	struct loop *loop;
	struct device_host *host;
	struct hello_identity identity;
	struct link *link;
	uint64_t session;  /* counts hellos */
	unsigned requests; /* not answered yet */
	uint64_t tidied_ms, reported_ms;
	uint64_t deadline_ms; /* of winding down; 0: not yet */
	bool has_goodbye_said;
	char *refusal;

	pthread_mutex_t lock; /* guards what follows */
	struct request *first_done, **last_done;
	int done_fd; /* an eventfd: something is done */
};

const char *control_refusal(const struct control *control)
{
	return control->refusal;
}

/* ---- from strands back to the control thread */

static void add_done(struct control *control, struct request *request)
{
	const uint64_t one = 1;
	ssize_t written;

	pthread_mutex_lock(&control->lock);
	request->next = NULL;
	*control->last_done = request;
	control->last_done = &request->next;
	pthread_mutex_unlock(&control->lock);
	do {
		written = write(control->done_fd, &one, sizeof one);
	} while (written < 0 && errno == EINTR);
}

static struct request *take_done(struct control *control)
{
	struct request *first;

	pthread_mutex_lock(&control->lock);
	first = control->first_done;
	control->first_done = NULL;
	control->last_done = &control->first_done;
	pthread_mutex_unlock(&control->lock);
	return first;
}

static void carry_out(void *owner)
{
	struct request *request = owner;
	struct control *control = request->owner;

	bool is_again = request_carry_out(request) == REQUEST_AGAIN;

	if (is_again && !atomic_load(&request->host->is_stopping))
		strand_post(request->device->strand, carry_out, request);
	else
		add_done(control, request);
}

static void post(struct control *control, struct request *request)
{
	control->requests++;
	request->device->requests++;
	strand_post(request->device->strand, carry_out, request);
}

static void post_ours(
	struct control *control, struct device *device, enum request_kind kind, uint64_t lease)
{
	struct request *request = request_new(control, kind, control->host);

	request->device = device;
	request->made_lease = lease;
	post(control, request);
}

/* ---- answers */

static bool send_buffer(struct control *control, const struct wire_buffer *buffer)
{
	return link_send(control->link, buffer->bytes, buffer->length) == 0;
}

/* Whether the broker still waits for it, and may know it: who stops does not tell of what it could not do for that. */
static bool is_wanted(const struct control *control, const struct request *request)
{
	if (request->answer.length == 0 || request->session != control->session)
		return false;
	return !request->is_refused || !atomic_load(&control->host->is_stopping);
}

static void send_answer(struct control *control, struct request *request)
{
	if (is_wanted(control, request) && send_buffer(control, &request->answer))
		return;
	if (request->kind == REQUEST_OF_BROKER && request->made_lease != 0 && request->device)
		post_ours(control, request->device, REQUEST_RELEASE, request->made_lease);
}

static void report_guests(struct control *control, struct device *device, uint64_t now_ms)
{
	struct wire_buffer buffer = {0};

	if (guest_report_encode(device, now_ms, &buffer))
		(void)send_buffer(control, &buffer);
	wire_buffer_done(&buffer);
}

static bool has_opened_job(const struct request *request)
{
	return request->kind == REQUEST_OF_BROKER &&
	       request->message.type == BROKER_TO_IMAGED_OPEN_JOB;
}

static void finish_request(struct control *control, struct request *request)
{
	struct device *device = request->device;

	if (request->notice.length > 0)
		(void)send_buffer(control, &request->notice);
	send_answer(control, request);
	if (device && has_opened_job(request) && link_is_up(control->link)) {
		guest_report_begin(device);
		report_guests(control, device, clock_monotonic_ms());
	}
	if (request->kind == REQUEST_TIDY)
		atomic_store(&device->is_tidying, false);
	control->requests--;
	if (device && --device->requests == 0 && device->phase == DEVICE_CLOSED)
		(void)device_host_remove(control->host, device);
	request_free(request);
}

static void answer_all(void *owner)
{
	struct control *control = owner;
	struct request *request;
	uint64_t count;

	if (read(control->done_fd, &count, sizeof count) < 0 && errno != EAGAIN)
		log_warn("reading an eventfd failed: errno=%d", errno);
	request = take_done(control);
	while (request) {
		struct request *next = request->next;

		finish_request(control, request);
		request = next;
	}
}

/* ---- requests */

static void refuse_flood(struct control *control, struct request *request)
{
	request->device = NULL;
	log_warn("more than %d requests are waiting; one is dropped", REQUESTS_MAX);
	request_free(request);
	link_say_hello(control->link);
}

static void take_request(struct control *control, struct request *request)
{
	if (atomic_load(&control->host->is_stopping)) {
		request_free(request);
		return;
	}
	if (control->requests >= REQUESTS_MAX) {
		refuse_flood(control, request);
		return;
	}
	request->session = control->session;
	request_find_device(request);
	if (request->device) {
		post(control, request);
		return;
	}
	control->requests++;
	request_carry_out(request);
	finish_request(control, request);
}

/* What is said to this imaged rather than asked of a device. */
static void take_word(struct control *control, const struct broker_to_imaged *message)
{
	if (message->type == BROKER_TO_IMAGED_IMAGED_WELCOME) {
		log_info("welcomed by the broker, generation=%llu",
			(unsigned long long)message->imaged_welcome.generation);
		link_welcomed(control->link, message->imaged_welcome.heartbeat_ms);
	} else if (message->type == BROKER_TO_IMAGED_IMAGED_REFUSED) {
		free(control->refusal);
		control->refusal = must_strdup(message->imaged_refused.msg);
		loop_stop(control->loop);
	} else if (message->type == BROKER_TO_IMAGED_IMAGED_UNKNOWN) {
		link_say_hello(control->link);
	}
}

static void received(void *owner, const void *bytes, size_t length)
{
	struct control *control = owner;
	struct request *request = request_new(control, REQUEST_OF_BROKER, control->host);
	struct err err;

	if (broker_to_imaged_decode(bytes, length, &request->memory, &request->message, &err) < 0) {
		log_warn("a message of the broker is not understood and ignored: %s", err.text);
		request_free(request);
	} else if (request_is_answered(request->message.type)) {
		take_request(control, request);
	} else {
		take_word(control, &request->message);
		request_free(request);
	}
}

/* ---- the link */

static void say_hello(void *owner)
{
	struct control *control = owner;
	struct wire_buffer buffer = {0};

	if (atomic_load(&control->host->is_stopping))
		return;
	control->session++;
	hello_encode(control->host, &control->identity, &buffer);
	(void)send_buffer(control, &buffer);
	wire_buffer_done(&buffer);
}

static void say_heartbeat(void *owner)
{
	const struct msg_imaged_heartbeat heartbeat = {0};
	struct control *control = owner;
	struct wire_buffer buffer = {0};

	msg_imaged_heartbeat_encode(&heartbeat, &buffer);
	(void)send_buffer(control, &buffer);
	wire_buffer_done(&buffer);
}

static void lost(void *owner)
{
	struct control *control = owner;

	control->session++;
	log_warn("the broker is silent; devices stay as they are until it is back");
}

/* ---- now and then */

static bool is_held_too_long(const struct device *device, uint64_t now_ms)
{
	uint64_t until_ms = atomic_load(&device->held_until_ms);

	return until_ms != 0 && now_ms >= until_ms && device->requests == 0;
}

static bool tidy_devices(struct control *control, uint64_t now_ms)
{
	bool is_waiting = false;

	for (size_t i = 0; i < control->host->count; i++) {
		struct device *device = control->host->devices[i];

		if (atomic_load(&device->is_tidying)) {
			is_waiting = true;
		} else if (atomic_load(&device->needs_tidying)) {
			is_waiting = true;
			atomic_store(&device->is_tidying, true);
			post_ours(control, device, REQUEST_TIDY, 0);
		} else if (atomic_exchange(&device->is_suspect, false) ||
			   is_held_too_long(device, now_ms)) {
			post_ours(control, device, REQUEST_LOOK, 0);
		}
	}
	return is_waiting;
}

/* Those that were closed under a guest, which has left since. */
static void remove_closed(struct control *control)
{
	for (size_t i = control->host->count; i-- > 0;) {
		struct device *device = control->host->devices[i];

		if (device->requests == 0 && device->phase == DEVICE_CLOSED)
			(void)device_host_remove(control->host, device);
	}
}

static uint64_t tick(void *owner, uint64_t now_ms)
{
	struct control *control = owner;
	uint64_t interval_ms = control->deadline_ms ? WIND_DOWN_LOOK_MS : TIDY_MS;
	bool is_waiting;

	if (now_ms < control->tidied_ms + interval_ms)
		return control->tidied_ms + interval_ms;
	control->tidied_ms = now_ms;
	remove_closed(control);
	is_waiting = tidy_devices(control, now_ms);
	if (control->deadline_ms &&
		((!is_waiting && control->requests == 0) || now_ms >= control->deadline_ms))
		loop_stop(control->loop);
	return now_ms + interval_ms;
}

static uint64_t report_tick(void *owner, uint64_t now_ms)
{
	struct control *control = owner;
	bool may_report = link_is_up(control->link) && !atomic_load(&control->host->is_stopping);

	if (now_ms < control->reported_ms + GUEST_REPORT_MS)
		return control->reported_ms + GUEST_REPORT_MS;
	control->reported_ms = now_ms;
	for (size_t i = 0; may_report && i < control->host->count; i++)
		report_guests(control, control->host->devices[i], now_ms);
	return now_ms + GUEST_REPORT_MS;
}

static void say_goodbye(struct control *control)
{
	const struct msg_imaged_goodbye goodbye = {0};
	struct wire_buffer buffer = {0};

	msg_imaged_goodbye_encode(&goodbye, &buffer);
	(void)send_buffer(control, &buffer);
	wire_buffer_done(&buffer);
}

/* Workers leave when the broker hears of our goodbye; once their lock bytes are free, what was reserved for them can be
 * given back and nothing leaks. */
void control_wind_down(struct control *control)
{
	struct err err;

	atomic_store(&control->host->is_stopping, true);
	strand_pool_drain(control->host->pool);
	answer_all(control);
	say_goodbye(control);
	for (size_t i = 0; i < control->host->count; i++)
		post_ours(control, control->host->devices[i], REQUEST_REVOKE, 0);
	strand_pool_drain(control->host->pool);
	answer_all(control);
	if (!tidy_devices(control, clock_monotonic_ms()))
		return;
	control->deadline_ms = clock_monotonic_ms() + WIND_DOWN_MS;
	if (loop_run(control->loop, &err) < 0)
		log_warn("waiting for workers to leave failed: %s", err.text);
	strand_pool_drain(control->host->pool);
	answer_all(control);
}

/* ---- birth and death */

static int connect_all(struct control *control, struct mq *mq, const char *broker, struct err *err)
{
	const struct link_owner owner = {
		.owner = control,
		.received = received,
		.say_hello = say_hello,
		.say_heartbeat = say_heartbeat,
		.lost = lost,
	};
	const struct link_options options = {
		.endpoint = broker,
		.heartbeat_ms = 1000,
		.timeout_ms = 5000,
		.max_frame_bytes = FRAME_BYTES_MAX,
	};

	control->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (control->done_fd < 0)
		return err_set_errno(err, errno, "make an eventfd");
	control->link = link_new(mq, control->loop, &options, &owner, err);
	if (!control->link)
		return -1;
	if (loop_add_fd(control->loop, control->done_fd, answer_all, control, err) < 0)
		return -1;
	if (loop_add_tick(control->loop, tick, control, err) < 0)
		return -1;
	return loop_add_tick(control->loop, report_tick, control, err);
}

struct control *control_new(struct mq *mq, struct loop *loop, struct device_host *host,
	const struct control_options *options, struct err *err)
{
	struct control *control = must_calloc(1, sizeof *control);

	control->loop = loop;
	control->host = host;
	control->identity = (struct hello_identity){
		.name = options->name,
		.host_name = options->host_name,
		.realm = options->realm,
		.incarnation = random_id(),
	};
	control->last_done = &control->first_done;
	control->done_fd = -1;
	pthread_mutex_init(&control->lock, NULL);
	if (connect_all(control, mq, options->broker, err) < 0) {
		control_free(control);
		return NULL;
	}
	return control;
}

void control_free(struct control *control)
{
	if (!control)
		return;
	strand_pool_drain(control->host->pool);
	link_free(control->link);
	if (control->done_fd >= 0) {
		loop_remove_fd(control->loop, control->done_fd);
		close(control->done_fd);
	}
	for (struct request *request = take_done(control), *next; request; request = next) {
		next = request->next;
		request_free(request);
	}
	pthread_mutex_destroy(&control->lock);
	free(control->refusal);
	free(control);
}
