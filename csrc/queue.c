/* SPDX-License-Identifier: Apache-2.0 */
/* A queue from opening to orphan, and a command from submission to completion. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

enum {
	MAX_BATCH = 65536,
	ABANDON_AT_ONCE = 256,
};

pthread_mutex_t nvmefence_lock = PTHREAD_MUTEX_INITIALIZER;

/* All queues that are not freed, closed ones (the orphans) among them. */
static struct nvmefence_queue *queues;
static uint32_t generation;
static pthread_once_t once = PTHREAD_ONCE_INIT;

uint64_t nvmefence_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/* fork ----------------------------------------------------------------------------------------------------- */

static void before_fork(void)
{
	pthread_mutex_lock(&nvmefence_lock);
}

static void after_fork_in_parent(void)
{
	pthread_mutex_unlock(&nvmefence_lock);
}

static void after_fork_in_child(void)
{
	queues = NULL;
	generation++;
	threads_forget_after_fork();
	pthread_mutex_unlock(&nvmefence_lock);
}

static void watch_forks(void)
{
	pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

bool queue_is_foreign(const struct nvmefence_queue *queue)
{
	return queue->generation != generation;
}

/* the queue ------------------------------------------------------------------------------------------------ */

static int queue_open_ring(struct nvmefence_queue *queue, int backend)
{
	int status = ring_open(&queue->ring);

	queue->has_ring = status == 0;
	queue->fallback = queue->has_ring && backend == NVMEFENCE_AUTO;
	return backend == NVMEFENCE_IO_URING ? status : 0;
}

int nvmefence_queue_open(int backend, struct nvmefence_queue **opened)
{
	struct nvmefence_queue *queue;
	int status = 0;

	pthread_once(&once, watch_forks);
	nvmefence_in_flight();
	queue = calloc(1, sizeof(*queue));
	if (!queue)
		return -ENOMEM;
	queue->ring.fd = -1;
	queue->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (queue->event_fd < 0)
		status = -errno;
	else if (backend != NVMEFENCE_IOCTL)
		status = queue_open_ring(queue, backend);
	if (status == 0)
		status = slots_add(queue);
	if (status < 0) {
		if (queue->has_ring)
			ring_close(&queue->ring);
		if (queue->event_fd >= 0)
			close(queue->event_fd);
		free(queue);
		return status;
	}
	pthread_mutex_lock(&nvmefence_lock);
	queue->generation = generation;
	queue->next = queues;
	queues = queue;
	pthread_mutex_unlock(&nvmefence_lock);
	*opened = queue;
	return 0;
}

void queue_settle(struct nvmefence_queue *queue)
{
	struct nvmefence_queue **link = &queues;

	if (!queue->closed || queue->in_flight > 0)
		return;
	while (*link != queue)
		link = &(*link)->next;
	*link = queue->next;
	if (queue->has_ring)
		ring_close(&queue->ring);
	slots_release(queue);
	free(queue->devices);
	free(queue);
}

/* Lock held. Free the closed queues whose ring has completed everything. */
static void settle_orphans(void)
{
	struct nvmefence_queue *next;

	for (struct nvmefence_queue *queue = queues; queue; queue = next) {
		next = queue->next;
		if (!queue->closed)
			continue;
		if (queue->has_ring)
			ring_reap(queue);
		queue_settle(queue);
	}
}

void nvmefence_queue_close(struct nvmefence_queue *queue)
{
	pthread_mutex_lock(&nvmefence_lock);
	if (!queue_is_foreign(queue)) {
		queue->closed = true;
		for (uint32_t i = 0; i < queue->device_count; i++) {
			if (queue->devices[i])
				device_release(queue, queue->devices[i]);
		}
		close(queue->event_fd);
		queue->event_fd = -1;
		settle_orphans();
	}
	pthread_mutex_unlock(&nvmefence_lock);
}

int nvmefence_queue_backend(struct nvmefence_queue *queue)
{
	return queue->has_ring ? NVMEFENCE_IO_URING : NVMEFENCE_IOCTL;
}

int nvmefence_queue_event_fd(struct nvmefence_queue *queue)
{
	return queue->event_fd;
}

int nvmefence_queue_ring_fd(struct nvmefence_queue *queue)
{
	return queue->ring.fd;
}

/* Reads the rings of open queues without emptying them: that would take away what their owner waits for. */
uint64_t nvmefence_in_flight(void)
{
	uint64_t total = 0;

	pthread_mutex_lock(&nvmefence_lock);
	settle_orphans();
	for (const struct nvmefence_queue *queue = queues; queue; queue = queue->next) {
		total += queue->in_flight;
		if (queue->has_ring)
			total -= ring_ready(&queue->ring);
	}
	pthread_mutex_unlock(&nvmefence_lock);
	return total;
}

/* from submission to completion ---------------------------------------------------------------------------- */

bool slot_overdue(struct slot *slot)
{
	uint64_t now = nvmefence_now_ns();

	slot->started_ns = now;
	if (!slot->abandoned && (slot->until_ns == 0 || now < slot->until_ns))
		return false;
	slot_finish(slot, -ETIME, 0, now);
	return true;
}

void slot_finish(struct slot *slot, int32_t status, uint32_t result, uint64_t finished_ns)
{
	struct nvmefence_queue *queue = slot->queue;
	struct device *device = slot->device;

	queue->in_flight--;
	device->node->in_flight--;
	device->in_flight--;
	slot->status = status;
	slot->result = result;
	slot->finished_ns = finished_ns;
	if (slot->abandoned) {
		slot_free(slot);
	} else {
		slot->state = SLOT_DONE;
		slot_list_push(&queue->done, slot);
	}
	device_settle(queue, device);
}

static void slot_start(struct slot *slot)
{
	struct nvmefence_queue *queue = slot->queue;
	struct node *node = slot->device->node;

	slot->state = SLOT_STARTED;
	queue->in_flight++;
	node->in_flight++;
	slot->device->in_flight++;
	if (node->path == PATH_THREAD)
		threads_start(slot);
	else
		ring_start(slot);
}

static void node_dispatch(struct nvmefence_queue *queue, struct node *node)
{
	while (node->waiting.head && node->in_flight < NVMEFENCE_PER_DEVICE &&
	       queue->in_flight < NVMEFENCE_PER_QUEUE) {
		struct slot *slot = slot_list_pop(&node->waiting);

		queue->waiting--;
		slot_start(slot);
	}
}

void queue_dispatch_threads(struct nvmefence_queue *queue)
{
	for (struct node *node = queue->nodes; node && queue->waiting > 0; node = node->next) {
		if (node->path == PATH_THREAD)
			node_dispatch(queue, node);
	}
}

/* Lock held. Until nothing more can be started: what ends at once makes room for the next. */
static void dispatch(struct nvmefence_queue *queue)
{
	uint32_t before;

	if (queue->has_ring)
		ring_reap(queue);
	do {
		before = queue->waiting;
		for (struct node *node = queue->nodes; node && queue->waiting > 0; node = node->next)
			node_dispatch(queue, node);
		if (queue->has_ring) {
			ring_flush(queue);
			ring_reap(queue);
		}
	} while (queue->waiting > 0 && queue->waiting != before);
}

static int check_commands(uint32_t count, const struct nvmefence_command *commands, uint64_t data_length)
{
	uint64_t sent = 0;

	if (count == 0 || count > MAX_BATCH)
		return -EINVAL;
	for (uint32_t i = 0; i < count; i++) {
		const struct nvmefence_command *command = &commands[i];

		if (command->read_length > NVMEFENCE_PAGE || command->send_length > NVMEFENCE_PAGE ||
		    (command->read_length > 0 && command->send_length > 0))
			return -EINVAL;
		sent += command->send_length;
	}
	return sent == data_length ? 0 : -EINVAL;
}

static int submit(struct nvmefence_queue *queue, struct device *device, uint64_t batch, uint32_t count,
		  const struct nvmefence_command *commands, const uint8_t *data, uint64_t until_ns)
{
	uint64_t now = nvmefence_now_ns();
	int status = slots_reserve(queue, count);

	if (status < 0)
		return status;
	for (uint32_t i = 0; i < count; i++) {
		struct slot *slot = queue->free;

		queue->free = slot->next;
		slot->device = device;
		slot->command = commands[i];
		slot->batch = batch;
		slot->index = i;
		slot->until_ns = until_ns;
		slot->started_ns = now;
		slot->state = SLOT_WAITING;
		if (commands[i].send_length > 0) {
			memcpy(slot->buffer, data, commands[i].send_length);
			data += commands[i].send_length;
		}
		memset(slot->buffer, NVMEFENCE_UNWRITTEN, commands[i].read_length);
		slot_list_push(&device->node->waiting, slot);
	}
	queue->waiting += count;
	return 0;
}

int nvmefence_submit(struct nvmefence_queue *queue, int handle, uint64_t batch, uint32_t count,
		     const struct nvmefence_command *commands, const uint8_t *data, uint64_t data_length,
		     uint64_t until_ns)
{
	struct device *device;
	int status = check_commands(count, commands, data_length);

	if (status < 0)
		return status;
	pthread_mutex_lock(&nvmefence_lock);
	if (queue_is_foreign(queue))
		status = -ECHILD;
	else if (!(device = device_find(queue, handle)))
		status = -EBADF;
	else
		status = submit(queue, device, batch, count, commands, data, until_ns);
	pthread_mutex_unlock(&nvmefence_lock);
	return status;
}

static void report(const struct slot *slot, int32_t status, uint64_t finished_ns,
		   struct nvmefence_completion *completion)
{
	*completion = (struct nvmefence_completion){
		.batch = slot->batch,
		.index = slot->index,
		.status = status,
		.result = slot->result,
		.length = status == 0 ? slot->command.read_length : 0,
		.started_ns = slot->started_ns,
		.finished_ns = finished_ns,
	};
}

int nvmefence_reap(struct nvmefence_queue *queue, struct nvmefence_completion *completions, uint32_t max,
		   uint8_t *data)
{
	struct slot *slot;
	uint32_t count = 0;

	pthread_mutex_lock(&nvmefence_lock);
	if (queue_is_foreign(queue)) {
		pthread_mutex_unlock(&nvmefence_lock);
		return -ECHILD;
	}
	if (queue->signalled) {
		uint64_t value;

		queue->signalled = false;
		while (read(queue->event_fd, &value, sizeof(value)) < 0 && errno == EINTR)
			;
	}
	dispatch(queue);
	while (count < max && (slot = slot_list_pop(&queue->done))) {
		report(slot, slot->status, slot->finished_ns, &completions[count]);
		memcpy(data, slot->buffer, completions[count].length);
		data += completions[count].length;
		count++;
		slot_free(slot);
	}
	pthread_mutex_unlock(&nvmefence_lock);
	return (int)count;
}

/* Report what slots_abandon_batch found; what still waited is never sent. */
static void report_abandoned(struct nvmefence_queue *queue, struct slot **slots, uint32_t count,
			     struct nvmefence_completion *completions)
{
	uint64_t now = nvmefence_now_ns();
	bool waiting = false;

	for (uint32_t i = 0; i < count; i++) {
		if (slots[i]->state == SLOT_WAITING) {
			slots[i]->started_ns = now;
			waiting = true;
		}
		report(slots[i], -ETIME, now, &completions[i]);
	}
	if (!waiting)
		return;
	for (struct node *node = queue->nodes; node; node = node->next)
		queue->waiting -= slot_list_drop_abandoned(&node->waiting);
}

int nvmefence_abandon(struct nvmefence_queue *queue, uint64_t batch, struct nvmefence_completion *completions,
		      uint32_t max)
{
	struct slot *slots[ABANDON_AT_ONCE];
	int count = -ECHILD;

	if (max > ABANDON_AT_ONCE)
		max = ABANDON_AT_ONCE;
	pthread_mutex_lock(&nvmefence_lock);
	if (!queue_is_foreign(queue)) {
		count = (int)slots_abandon_batch(queue, batch, slots, max);
		report_abandoned(queue, slots, (uint32_t)count, completions);
	}
	pthread_mutex_unlock(&nvmefence_lock);
	return count;
}
