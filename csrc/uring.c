/* SPDX-License-Identifier: Apache-2.0 */
/*
 * io_uring passthrough (nvme_dev_uring_cmd in drivers/nvme/host/ioctl.c), by raw system calls.
 *
 * The ring is polled by its descriptor and entered only to submit, so neither call here waits. Completions are posted
 * by the kernel in the context of the submitting thread whenever it enters or leaves the kernel (plain task
 * work: IORING_SETUP_DEFER_TASKRUN would tie the ring to one thread and need an extra call to reap).
 *
 * Status 0 is weaker here than from the ioctl. Some kernels complete a request that the block layer failed before it
 * was sent with 0 (nvme_uring_cmd_end_io without blk_status_to_errno; fixed by 1147dd050356, undone by d6aacee9255e,
 * fixed again by 5eed4fb274cd). Poisoned read buffers show it; a command that returns no data must be confirmed by
 * one that does.
 *
 * Nothing is lost: no more commands are in flight than the completion ring has room for.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "internal.h"
#include "kernel_abi.h"

enum {
	SUBMISSION_ENTRIES = 256,
	ENTER_ATTEMPTS = 8,	/* when the kernel is short of memory for requests */
};

_Static_assert(sizeof(struct ring_sqe) == 128, "struct io_uring_sqe with IORING_SETUP_SQE128");
_Static_assert(sizeof(struct ring_cqe) == 32, "struct io_uring_cqe with IORING_SETUP_CQE32");
_Static_assert(offsetof(struct ring_sqe, cmd) == 48, "the command area");
_Static_assert(sizeof(struct nvme_passthrough) == 72, "struct nvme_uring_cmd");

static uint32_t load_acquire(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static void store_release(uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* 0, or -EOPNOTSUPP when the kernel has no IORING_OP_URING_CMD. */
static int probe_operation(int fd)
{
	struct ring_probe probe = {0};

	if (syscall(SYS_IO_URING_REGISTER, fd, RING_REGISTER_PROBE, &probe, 256) < 0)
		return -errno;
	if (probe.last_op < RING_OP_URING_CMD)
		return -EOPNOTSUPP;
	return probe.ops[RING_OP_URING_CMD].flags & RING_OP_SUPPORTED ? 0 : -EOPNOTSUPP;
}

static int map_failed(struct ring *ring)
{
	int status = -errno;

	ring_close(ring);
	return status;
}

static uint32_t *word_at(const struct ring *ring, uint32_t offset)
{
	return (uint32_t *)(void *)((uint8_t *)ring->memory + offset);
}

static int ring_map(struct ring *ring, const struct ring_params *params)
{
	size_t submission = params->sq.array + params->sq_entries * sizeof(uint32_t);
	size_t completion = params->cq.cqes + params->cq_entries * sizeof(struct ring_cqe);
	uint32_t *array;
	void *memory;

	ring->memory_size = submission > completion ? submission : completion;
	memory = mmap(NULL, ring->memory_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd,
		      RING_OFF_RINGS);
	if (memory == MAP_FAILED)
		return map_failed(ring);
	ring->memory = memory;
	ring->sqes_size = params->sq_entries * sizeof(struct ring_sqe);
	memory = mmap(NULL, ring->sqes_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd,
		      RING_OFF_SQES);
	if (memory == MAP_FAILED)
		return map_failed(ring);
	ring->sqes = memory;
	if (madvise(ring->memory, ring->memory_size, MADV_DONTFORK) != 0 ||
	    madvise(ring->sqes, ring->sqes_size, MADV_DONTFORK) != 0)
		return map_failed(ring);
	ring->entries = params->sq_entries;
	ring->submission_mask = *word_at(ring, params->sq.ring_mask);
	ring->completion_mask = *word_at(ring, params->cq.ring_mask);
	ring->submission_head = word_at(ring, params->sq.head);
	ring->submission_tail = word_at(ring, params->sq.tail);
	ring->completion_head = word_at(ring, params->cq.head);
	ring->completion_tail = word_at(ring, params->cq.tail);
	ring->cqes = (struct ring_cqe *)(void *)((uint8_t *)ring->memory + params->cq.cqes);
	array = word_at(ring, params->sq.array);
	for (uint32_t i = 0; i < params->sq_entries; i++)
		array[i] = i;
	return 0;
}

int ring_open(struct ring *ring)
{
	struct ring_params params = {
		.flags = RING_SETUP_SQE128 | RING_SETUP_CQE32 | RING_SETUP_SUBMIT_ALL | RING_SETUP_CQSIZE,
		.cq_entries = NVMEFENCE_PER_QUEUE,
	};
	const uint32_t features = RING_FEAT_SINGLE_MMAP | RING_FEAT_NODROP;
	long fd;
	int status;

	memset(ring, 0, sizeof(*ring));
	ring->fd = -1;
	fd = syscall(SYS_IO_URING_SETUP, SUBMISSION_ENTRIES, &params);
	if (fd < 0)
		return -errno;
	ring->fd = (int)fd;
	status = (params.features & features) == features ? probe_operation(ring->fd) : -EOPNOTSUPP;
	if (status < 0) {
		ring_close(ring);
		return status;
	}
	return ring_map(ring, &params);
}

void ring_close(struct ring *ring)
{
	if (ring->sqes)
		munmap(ring->sqes, ring->sqes_size);
	if (ring->memory)
		munmap(ring->memory, ring->memory_size);
	if (ring->fd >= 0)
		close(ring->fd);
	ring->sqes = NULL;
	ring->memory = NULL;
	ring->fd = -1;
}

int nvmefence_probe_io_uring(void)
{
	struct ring ring;
	int status = ring_open(&ring);

	if (status == 0)
		ring_close(&ring);
	return status;
}

static struct slot *slot_of(uint64_t user_data)
{
	return (struct slot *)(uintptr_t)user_data;
}

void ring_start(struct slot *slot)
{
	struct ring *ring = &slot->queue->ring;
	struct ring_sqe *sqe;

	if (ring->tail - ring->submitted == ring->entries)
		ring_flush(slot->queue);
	if (slot_overdue(slot))
		return;
	sqe = &ring->sqes[ring->tail & ring->submission_mask];
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = RING_OP_URING_CMD;
	sqe->fd = slot->device->fd;
	sqe->cmd_op = PASSTHROUGH_RING;
	sqe->user_data = (uint64_t)(uintptr_t)slot;
	slot_passthrough(slot, &sqe->cmd);
	ring->tail++;
}

/* Take back the entries the kernel has not read, and fail their commands. It reads them only while we enter. */
static void give_up(struct ring *ring, int status)
{
	uint32_t tail = ring->tail;

	ring->tail = ring->submitted;
	store_release(ring->submission_tail, ring->tail);
	for (uint32_t i = ring->submitted; i != tail; i++) {
		struct slot *slot = slot_of(ring->sqes[i & ring->submission_mask].user_data);

		slot_finish(slot, status, 0, nvmefence_now_ns());
	}
}

void ring_flush(struct nvmefence_queue *queue)
{
	struct ring *ring = &queue->ring;
	int attempts = 0;

	while (ring->submitted != ring->tail) {
		int status;
		long entered;

		store_release(ring->submission_tail, ring->tail);
		entered = syscall(SYS_IO_URING_ENTER, ring->fd, ring->tail - ring->submitted, 0, 0, NULL,
				  (size_t)0);
		status = entered < 0 ? -errno : 0;
		ring->submitted = load_acquire(ring->submission_head);
		if (entered > 0 || status == -EINTR)
			continue;
		if ((entered == 0 || status == -EAGAIN) && ++attempts < ENTER_ATTEMPTS)
			continue;
		give_up(ring, status ? status : -EAGAIN);
	}
}

/*
 * Whether a command came back because the device's driver has no io_uring passthrough, hence without having been
 * sent, and may go through the ioctl instead. These answers are given before a request is made: io_uring_cmd
 * (-EOPNOTSUPP: the driver has no uring_cmd), security_uring_cmd (-EACCES, -EPERM), nvme_dev_uring_cmd
 * (-ENOTTY). Only while no command has come through on this device; and an abandoned one is never sent again.
 */
static bool falls_back(const struct slot *slot, int32_t status)
{
	if (!slot->queue->fallback || slot->abandoned || slot->device->node->path == PATH_RING)
		return false;
	return status == -EOPNOTSUPP || status == -ENOTTY || status == -EACCES || status == -EPERM;
}

static void complete(const struct ring_cqe *cqe, uint64_t now)
{
	struct slot *slot = slot_of(cqe->user_data);

	if (falls_back(slot, cqe->res)) {
		slot->device->node->path = PATH_THREAD;
		threads_start(slot);
		return;
	}
	/* Only the driver gives 0 or an NVMe status: it is there. */
	if (cqe->res >= 0 && slot->device->node->path == PATH_UNDECIDED)
		slot->device->node->path = PATH_RING;
	slot_finish(slot, cqe->res, (uint32_t)cqe->big_cqe[0], now);
}

uint32_t ring_ready(const struct ring *ring)
{
	return load_acquire(ring->completion_tail) - *ring->completion_head;
}

void ring_reap(struct nvmefence_queue *queue)
{
	struct ring *ring = &queue->ring;
	uint32_t head = *ring->completion_head;
	uint32_t tail = load_acquire(ring->completion_tail);
	uint64_t now;

	if (head == tail)
		return;
	now = nvmefence_now_ns();
	for (; head != tail; head++)
		complete(&ring->cqes[head & ring->completion_mask], now);
	store_release(ring->completion_head, head);
}
