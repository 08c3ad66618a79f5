/* SPDX-License-Identifier: Apache-2.0 */
/* simulation [--seed N] [--histories N] [--liars] [--verbose]
 *
 * Plays histories of the broker's core, each from its seed.  One in which something does not
 * hold is told with its seed and played again with every message shown. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/simulation/parts.h"

#define CHAOS_STEPS_MIN	    500
#define CALM_MS_MAX	    400000
#define STEPS_MAX	    400000
#define HISTORY_SECONDS_MAX 30

static jmp_buf went_wrong;
static uint64_t seed_being_played;

/* A bug_if in the core ends the process: at least say in which history. */
static void dies(int signal_number)
{
	printf("seed %llu: signal %d\n", (unsigned long long)seed_being_played, signal_number);
	fflush(stdout);
	signal(signal_number, SIG_DFL);
	raise(signal_number);
}

/* ---- occasions: a heap by time, then by the order in which they were arranged */

static bool is_before(const struct occasion *a, const struct occasion *b)
{
	return a->due_ms != b->due_ms ? a->due_ms < b->due_ms : a->order < b->order;
}

void at(struct world *world, uint64_t delay_ms, happening *happens, void *about, uint64_t number)
{
	struct occasion occasion = {
		world->now_ms + delay_ms, ++world->order, happens, about, number};
	size_t i = world->occasions_count++;

	if (world->occasions_count > world->occasions_capacity) {
		world->occasions_capacity =
			world->occasions_capacity ? 2 * world->occasions_capacity : 64;
		world->occasions =
			realloc(world->occasions, world->occasions_capacity * sizeof(occasion));
	}
	for (; i > 0 && is_before(&occasion, &world->occasions[(i - 1) / 2]); i = (i - 1) / 2)
		world->occasions[i] = world->occasions[(i - 1) / 2];
	world->occasions[i] = occasion;
}

static struct occasion take_first(struct world *world)
{
	struct occasion first = world->occasions[0],
			last = world->occasions[--world->occasions_count];
	size_t i = 0, child;

	while ((child = 2 * i + 1) < world->occasions_count) {
		if (child + 1 < world->occasions_count &&
			is_before(&world->occasions[child + 1], &world->occasions[child]))
			child++;
		if (!is_before(&world->occasions[child], &last))
			break;
		world->occasions[i] = world->occasions[child];
		i = child;
	}
	world->occasions[i] = last;
	return first;
}

/* ---- telling */

void say(struct world *world, const char *format, ...)
{
	va_list arguments;

	if (!world->is_verbose)
		return;
	printf("%8llu ", (unsigned long long)world->now_ms);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf("\n");
}

void wrong(struct world *world, const char *format, ...)
{
	va_list arguments;

	if (world->has_liars)
		longjmp(went_wrong, 2); /* of course; the history ends here */
	printf("seed %llu, step %llu: ", (unsigned long long)world->seed,
		(unsigned long long)world->steps);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf("\n");
	fflush(stdout);
	longjmp(went_wrong, 1);
}

/* ---- faults */

static struct faults draw_faults(struct dice *dice)
{
	struct faults faults = {0};

	if (dice_percent(dice, 10))
		return faults; /* a straight history */
	faults.late = dice_percent(dice, 50) ? (unsigned)dice_below(dice, 60) : 0;
	faults.reset = dice_percent(dice, 50) ? (unsigned)dice_below(dice, 15) : 0;
	faults.doubled = dice_percent(dice, 50) ? (unsigned)dice_below(dice, 50) : 0;
	faults.lost = dice_percent(dice, 40) ? (unsigned)dice_below(dice, 20) : 0;
	faults.worker_kill = dice_percent(dice, 60) ? (unsigned)dice_below(dice, 60) : 0;
	faults.worker_sleep = dice_percent(dice, 60) ? (unsigned)dice_below(dice, 60) : 0;
	faults.imaged_kill = dice_percent(dice, 50) ? (unsigned)dice_below(dice, 40) : 0;
	faults.broker_kill = dice_percent(dice, 50) ? (unsigned)dice_below(dice, 60) : 0;
	faults.copy_fails = dice_percent(dice, 10) ? (unsigned)dice_below(dice, 10) : 0;
	faults.join_fails = dice_percent(dice, 20) ? (unsigned)dice_below(dice, 300) : 0;
	faults.device_fails = dice_percent(dice, 10) ? (unsigned)dice_below(dice, 8) : 0;
	faults.no_space = dice_percent(dice, 10) ? (unsigned)dice_below(dice, 20) : 0;
	faults.imaged_says_no = dice_percent(dice, 20) ? (unsigned)dice_below(dice, 50) : 0;
	return faults;
}

static void sleeps(struct world *world, struct process *process)
{
	uint64_t wakes_ms = world->now_ms +
			    dice_below(&world->dice, dice_percent(&world->dice, 20) ? 40000 : 3000);

	if (wakes_ms > process->asleep_until_ms) {
		say(world, "%s sleeps until %llu", process->name, (unsigned long long)wakes_ms);
		process->asleep_until_ms = wakes_ms;
		process->lost_order = true;
	}
}

static void worker_says_goodbye(struct world *world, struct model_worker *worker)
{
	struct worker_to_broker message = {.type = WORKER_TO_BROKER_WORKER_GOODBYE};
	struct wire_buffer buffer = {0};

	if (!worker->process.is_alive || !worker->process.is_welcome)
		return;
	worker->process.is_leaving = true;
	worker_to_broker_encode(&message, &buffer);
	process_send(world, &worker->process, &buffer);
	wire_buffer_done(&buffer);
}

static void leaves(struct world *world, void *about, uint64_t number)
{
	struct model_worker *worker = about;

	if (worker->process.is_alive && worker->process.incarnation == number)
		worker_kill(world, worker);
}

/* Ten turns a second. */
static void turn(struct world *world, void *about, uint64_t number)
{
	struct faults *faults = &world->faults;
	struct dice *dice = &world->dice;
	struct model_worker *worker = &world->workers[dice_below(dice, world->workers_count)];
	struct model_imaged *imaged = &world->imageds[dice_below(dice, world->imageds_count)];

	(void)about;
	(void)number;
	if (world->is_calm)
		return;
	at(world, 100, turn, NULL, 0);
	if (dice_permille(dice, faults->worker_kill)) {
		if (dice_percent(dice, 20)) {
			worker_says_goodbye(world, worker);
			at(world, 5000, leaves, worker, worker->process.incarnation);
		} else {
			worker_kill(world, worker);
		}
	}
	if (dice_permille(dice, faults->worker_sleep))
		sleeps(world, &worker->process);
	if (dice_permille(dice, faults->worker_sleep / 4))
		sleeps(world, &imaged->process);
	if (dice_permille(dice, faults->imaged_kill))
		imaged_kill(world, imaged);
	if (dice_permille(dice, faults->broker_kill))
		broker_kill(world);
}

/* ---- a history */

static void begin(struct world *world, uint64_t seed, bool has_liars, bool is_verbose)
{
	*world = (struct world){
		.seed = seed, .dice = {seed}, .has_liars = has_liars, .is_verbose = is_verbose};
	world->now_ms = 1000;
	world->faults = draw_faults(&world->dice);
	if (has_liars)
		world->faults.lies = 1 + (unsigned)dice_below(&world->dice, 100);
	world->images_count = 1 + (unsigned)dice_below(&world->dice, IMAGES);
	world->workers_count = 1 + (unsigned)dice_below(&world->dice, WORKERS);
	world->imageds_count = 1 + (unsigned)dice_below(&world->dice, IMAGEDS);
	world->broker = broker_new();
	world->watch = watch_new();
	for (unsigned i = 0; i < world->images_count; i++)
		image_make(world, &world->images[i], i);
	broker_start(world);
	for (unsigned i = 0; i < world->workers_count; i++) {
		struct process *process = &world->workers[i].process;

		process->kind = PROCESS_WORKER;
		snprintf(process->name, sizeof(process->name), "worker%u", i);
		worker_start(world, &world->workers[i], dice_below(&world->dice, 2000));
	}
	for (unsigned i = 0; i < world->imageds_count; i++) {
		struct process *process = &world->imageds[i].process;

		process->kind = PROCESS_IMAGED;
		snprintf(process->name, sizeof(process->name), "imaged%u", i);
		imaged_start(world, &world->imageds[i], dice_below(&world->dice, 500));
	}
	at(world, 500, client_begins, NULL, 5);
	at(world, 600, client_acts, NULL, 0);
	at(world, 700, guest_acts, NULL, 0);
	at(world, 100, turn, NULL, 0);
}

static void step(struct world *world)
{
	struct occasion occasion = take_first(world);

	world->now_ms = occasion.due_ms;
	world->steps++;
	occasion.happens(world, occasion.about, occasion.number);
	for (unsigned i = 0; i < world->images_count; i++)
		image_check(world, &world->images[i]);
}

static bool has_anything_open(const struct world *world)
{
	for (unsigned i = 0; i < world->imageds_count; i++)
		for (unsigned k = 0; k < LEASES_MAX; k++)
			if (world->imageds[i].leases[k].id != 0)
				return true;
	for (unsigned i = 0; i < world->workers_count; i++)
		for (unsigned k = 0; k < WORKS_MAX; k++)
			if (is_at_work(&world->workers[i].works[k]))
				return true;
	for (unsigned i = 0; i < 64; i++)
		if (world->requests[i].client != 0)
			return true;
	return broker_jobs(world) > 0 || !broker_is_alive(world);
}

static void play(struct world *world)
{
	uint64_t chaos_steps = CHAOS_STEPS_MIN + dice_below(&world->dice, 2500), calm_ms;

	while (world->steps < chaos_steps || world->now_ms < 8000)
		step(world);
	say(world, "no more faults");
	world->is_calm = true;
	calm_ms = world->now_ms;
	at(world, 0, client_settles, NULL, 0);
	while (world->now_ms < calm_ms + 20000 ||
		(has_anything_open(world) && world->now_ms < calm_ms + CALM_MS_MAX)) {
		if (world->steps > STEPS_MAX)
			wrong(world, "it does not come to an end");
		step(world);
	}
	watch_over(world);
}

static void end(struct world *world)
{
	for (size_t i = 0; i < world->occasions_count; i++)
		network_forget(&world->occasions[i]);
	broker_free(world->broker);
	watch_free(world->watch);
	free(world->occasions);
}

/* false: something did not hold. */
static bool play_history(uint64_t seed, bool has_liars, bool is_verbose, struct tally *tally)
{
	struct world *world = calloc(1, sizeof(*world));
	int result = setjmp(went_wrong);

	seed_being_played = seed;
	alarm(HISTORY_SECONDS_MAX);
	if (result == 0) {
		begin(world, seed, has_liars, is_verbose);
		play(world);
	}
	if (result == 1)
		return false; /* what went wrong is left as it is */
	tally->steps += world->steps;
	watch_count(world, tally);
	end(world);
	free(world);
	return true;
}

static int usage(void)
{
	fprintf(stderr, "usage: simulation [--seed N] [--histories N] [--liars] [--verbose]\n");
	return 2;
}

int main(int argc, char **argv)
{
	uint64_t seed = 0, histories = 0, failures = 0;
	struct tally tally = {0};
	bool is_verbose = false, has_liars = false;
	clock_t begin_clock = clock();

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--verbose") == 0)
			is_verbose = true;
		else if (strcmp(argv[i], "--liars") == 0)
			has_liars = true;
		else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
			seed = strtoull(argv[++i], NULL, 10);
		else if (strcmp(argv[i], "--histories") == 0 && i + 1 < argc)
			histories = strtoull(argv[++i], NULL, 10);
		else
			return usage();
	}
	if (histories == 0)
		histories = seed != 0 ? 1 : 2000;
	if (seed == 0)
		seed = 1;
	signal(SIGALRM, dies);
	signal(SIGABRT, dies);
	signal(SIGSEGV, dies);
	for (uint64_t i = 0; i < histories && failures < 5; i++)
		if (!play_history(seed + i, has_liars, is_verbose, &tally)) {
			failures++;
			printf("  again: simulation --seed %llu --verbose\n",
				(unsigned long long)(seed + i));
		}
	printf("%llu histories from seed %llu, %llu steps, %llu orders, %.1f s; "
	       "jobs: %llu accepted, %llu completed, %llu cancelled, %llu failed; %llu wrong\n",
		(unsigned long long)histories, (unsigned long long)seed,
		(unsigned long long)tally.steps, (unsigned long long)tally.orders,
		(double)(clock() - begin_clock) / CLOCKS_PER_SEC,
		(unsigned long long)tally.accepted, (unsigned long long)tally.completed,
		(unsigned long long)tally.cancelled, (unsigned long long)tally.failed,
		(unsigned long long)failures);
	return failures == 0 ? 0 : 1;
}
