/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random life of several queues: submits, hangs, abandons, releases, closes with commands in flight, and checks
 * that each command is reported exactly once, with its own data. Built with sanitizers by test_queue_sanitized.py.
 *
 *   stress ROUNDS SEED
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "nvmefence_queue.h"
#include "shim.h"

enum { QUEUES = 3, DEVICES = 4, BATCHES = 512, MOST = 60, REAP = 37 };

#define REQUIRE(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
			abort(); \
		} \
	} while (0)

struct batch {
	bool live;
	int device;	/* index */
	uint32_t count, answered;
	bool seen[MOST];
	bool through_ring;
	uint32_t read_length[MOST];
};

struct world {
	struct nvmefence_queue *queue;
	int backend;
	int devices[DEVICES];
	struct batch batches[BATCHES];
	uint64_t submitted, answered, released;
};

static const char *const paths[DEVICES] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/null"};
static uint8_t data[REAP * NVMEFENCE_PAGE];
static unsigned int seed;
static uint64_t all_submitted, all_abandoned;

static uint32_t chance(uint32_t below)
{
	return (uint32_t)rand_r(&seed) % below;
}

/* The byte and the result that command `index` of batch `number` must come back with. */
static uint8_t byte_of(uint64_t number, uint32_t index)
{
	return (uint8_t)((number * 61 + index * 7) % 255);
}

static void open_world(struct world *world, int backend)
{
	memset(world, 0, sizeof(*world));
	world->backend = backend;
	REQUIRE(nvmefence_queue_open(backend, &world->queue) == 0);
	for (int i = 0; i < DEVICES; i++)
		REQUIRE((world->devices[i] = nvmefence_device_open(world->queue, paths[i])) > 0);
}

static void submit(struct world *world)
{
	uint32_t number = 0;
	struct nvmefence_command commands[MOST] = {0};
	struct batch *batch;
	int device = (int)chance(DEVICES);
	uint64_t until = 0;

	while (number < BATCHES && world->batches[number].live)
		number++;
	if (number == BATCHES)
		return;
	batch = &world->batches[number];
	*batch = (struct batch){.live = true, .device = device, .count = 1 + chance(MOST)};
	/* Only the kernel answers a ring command here, and its /dev/null writes nothing. */
	batch->through_ring = strcmp(paths[device], "/dev/null") == 0 &&
		nvmefence_queue_backend(world->queue) != NVMEFENCE_IOCTL;	/* a kernel or an emulator may have none */
	for (uint32_t i = 0; i < batch->count; i++) {
		uint32_t words[16] = {SHIM_OPCODE};

		words[10] = chance(10) == 0 ? SHIM_HANG : chance(4) == 0 ? SHIM_LATE : SHIM_NOW;
		words[11] = words[10] == SHIM_HANG ? chance(SHIM_GATES) : chance(3);
		words[12] = byte_of(number, i);
		words[13] = number << 8 | i;
		words[14] = chance(8) == 0 ? 0x11a : 0;
		memcpy(commands[i].sqe, words, sizeof(words));
		commands[i].read_length = batch->read_length[i] = chance(5) == 0 ? 1 + chance(4096) : 4096;
	}
	if (chance(10) == 0) {
		struct timespec now;

		clock_gettime(CLOCK_MONOTONIC, &now);
		until = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec + 1000000;
	}
	REQUIRE(nvmefence_submit(world->queue, world->devices[device], number, batch->count, commands, NULL, 0, until) == 0);
	world->submitted += batch->count;
	all_submitted += batch->count;
}

static void check_data(const struct batch *batch, const struct nvmefence_completion *completion, const uint8_t *bytes)
{
	uint8_t expected = byte_of(completion->batch, completion->index);

	if (batch->through_ring)
		expected = NVMEFENCE_UNWRITTEN;
	REQUIRE(completion->length == (completion->status ? 0 : batch->read_length[completion->index]));
	for (uint32_t i = 0; i < completion->length; i++)
		REQUIRE(bytes[i] == expected);
	if (!batch->through_ring && completion->status >= 0)
		REQUIRE(completion->result == (uint32_t)(completion->batch << 8 | completion->index));
}

static void take_in(struct world *world, const struct nvmefence_completion *completions, int count, bool abandoned)
{
	const uint8_t *bytes = data;

	for (int i = 0; i < count; i++) {
		const struct nvmefence_completion *completion = &completions[i];
		struct batch *batch = &world->batches[completion->batch];

		REQUIRE(batch->live && completion->index < batch->count && !batch->seen[completion->index]);
		REQUIRE(completion->started_ns && completion->started_ns <= completion->finished_ns);
		REQUIRE(completion->status == 0 || completion->status == 0x11a || completion->status == -ETIME);
		if (!abandoned)
			check_data(batch, completion, bytes);
		bytes += completion->length;
		batch->seen[completion->index] = true;
		if (++batch->answered == batch->count)
			batch->live = false;
	}
	world->answered += (uint64_t)count;
}

static void reap(struct world *world)
{
	struct nvmefence_completion completions[REAP];
	int count;

	do {
		count = nvmefence_reap(world->queue, completions, REAP, data);
		REQUIRE(count >= 0);
		take_in(world, completions, count, false);
	} while (count == REAP);
}

static void abandon(struct world *world, uint32_t number)
{
	struct nvmefence_completion completions[REAP];
	int count;

	while (number < BATCHES && !world->batches[number].live)
		number++;
	if (number == BATCHES)
		return;
	reap(world);
	while ((count = nvmefence_abandon(world->queue, number, completions, REAP)) > 0) {
		all_abandoned += (uint64_t)count;
		take_in(world, completions, count, true);
	}
	reap(world);
	REQUIRE(count == 0 && !world->batches[number].live);
}

static void release(struct world *world)
{
	int device = (int)chance(DEVICES);

	REQUIRE(nvmefence_device_release(world->queue, world->devices[device]) == 0);
	REQUIRE(nvmefence_device_release(world->queue, world->devices[device]) == -EBADF);
	for (uint32_t i = 0; i < BATCHES; i++) {
		if (world->batches[i].live && world->batches[i].device == device) {
			world->released += world->batches[i].count - world->batches[i].answered;
			world->batches[i].live = false;
		}
	}
	world->devices[device] = nvmefence_device_open(world->queue, paths[device]);
	REQUIRE(world->devices[device] > 0);
}

static void check_world(const struct world *world)
{
	uint64_t pending = 0;

	for (uint32_t i = 0; i < BATCHES; i++)
		pending += world->batches[i].live ? world->batches[i].count - world->batches[i].answered : 0;
	REQUIRE(world->submitted == world->answered + world->released + pending);
}

static void one_step(struct world *world)
{
	uint32_t gate = chance(SHIM_GATES);

	switch (chance(16)) {
	case 0:
		abandon(world, chance(16));
		break;
	case 1:
		if (chance(4) == 0)
			release(world);
		break;
	case 2:
		shim_open_gate(gate);
		break;
	case 3:
		shim_close_gate(gate);
		break;
	case 4:
		if (chance(20) == 0) {
			check_world(world);
			nvmefence_queue_close(world->queue);
			open_world(world, world->backend);
		}
		break;
	case 5:
		if (chance(10) == 0)
			shim_fail_enter(EAGAIN, (int)chance(6));
		break;
	case 6:
	case 7:
	case 8:
		submit(world);
		break;
	default:
		reap(world);
	}
}

static void finish(struct world *world)
{
	for (int tries = 0; tries < 10000; tries++) {
		bool live = false;

		reap(world);
		for (uint32_t i = 0; i < BATCHES; i++)
			live = live || world->batches[i].live;
		if (!live)
			break;
		usleep(1000);
	}
	check_world(world);
	REQUIRE(world->submitted == world->answered + world->released);
	nvmefence_queue_close(world->queue);
}

/* A child can do nothing with its parent's queue, and everything with its own. */
static void fork_once(struct world *world)
{
	struct nvmefence_completion completion;
	int status;
	pid_t child = fork();

	if (child == 0) {
		struct nvmefence_queue *queue;

		if (nvmefence_reap(world->queue, &completion, 1, data) != -ECHILD ||
		    nvmefence_device_open(world->queue, "/dev/null") != -ECHILD || nvmefence_in_flight() != 0)
			_exit(1);
		nvmefence_queue_close(world->queue);
		if (nvmefence_queue_open(NVMEFENCE_AUTO, &queue) != 0)
			_exit(2);
		nvmefence_queue_close(queue);
		_exit(0);
	}
	REQUIRE(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(int argc, char **argv)
{
	static const int backends[QUEUES] = {NVMEFENCE_AUTO, NVMEFENCE_IOCTL, NVMEFENCE_AUTO};
	static struct world worlds[QUEUES];
	long rounds = argc > 1 ? atol(argv[1]) : 10000;

	seed = argc > 2 ? (unsigned int)atol(argv[2]) : 1;
	for (int i = 0; i < QUEUES; i++)
		open_world(&worlds[i], backends[i]);
	for (long round = 0; round < rounds; round++)
		one_step(&worlds[chance(QUEUES)]);
	if (argc <= 3)	/* ThreadSanitizer does not follow a fork of a process with threads */
		fork_once(&worlds[0]);
	for (uint32_t gate = 0; gate < SHIM_GATES; gate++)
		shim_open_gate(gate);
	for (int i = 0; i < QUEUES; i++)
		finish(&worlds[i]);
	for (int tries = 0; nvmefence_in_flight() > 0; tries++) {
		REQUIRE(tries < 10000);
		usleep(1000);
	}
	REQUIRE(shim_faults() == 0);
	REQUIRE(rounds < 1000 || all_abandoned > 0);
	printf("%llu commands, %llu abandoned\n", (unsigned long long)all_submitted, (unsigned long long)all_abandoned);
	return 0;
}
