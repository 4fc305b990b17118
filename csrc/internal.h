/* SPDX-License-Identifier: Apache-2.0 */
/* What queue.c shares with its two backends. One process-wide lock, nvmefence_lock, guards all of it. */
#ifndef NVMEFENCE_INTERNAL_H
#define NVMEFENCE_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "nvmefence_queue.h"

enum slot_state {
	SLOT_FREE,
	SLOT_WAITING,	/* in its node's list, not handed to anybody */
	SLOT_STARTED,	/* with the ring or a worker thread: the kernel may write to the buffer */
	SLOT_DONE,	/* completed, waiting for nvmefence_reap */
};

/* One command and the buffer lent to it. */
struct slot {
	struct slot *next;
	struct nvmefence_queue *queue;
	struct device *device;
	uint8_t *buffer;
	struct nvmefence_command command;
	enum slot_state state;
	bool abandoned;
	int32_t status;
	uint32_t result;
	uint32_t index;
	uint64_t batch;
	uint64_t until_ns;
	uint64_t started_ns;
	uint64_t finished_ns;
};

struct slot_list {
	struct slot *head;
	struct slot *tail;
};

/* Which way a node's commands go; decided by the first answer that tells. */
enum node_path { PATH_UNDECIDED, PATH_RING, PATH_THREAD };

/*
 * A character device by its number. The cap counts here and not per handle, because the tags are the
 * controller's: a drive that hangs and is opened again must not get another 24.
 */
struct node {
	struct node *next;
	dev_t number;
	uint32_t devices;
	uint32_t in_flight;
	enum node_path path;
	struct slot_list waiting;
};

/* What a handle stands for. */
struct device {
	struct node *node;
	int fd;
	int handle;
	uint32_t in_flight;
	bool released;
};

/* The ring's shared memory, as io_uring_setup(2) lays it out. */
struct ring {
	int fd;
	uint32_t in_flight;
	uint32_t entries;	/* of the submission ring, a power of two */
	uint32_t tail;		/* ours: entries written */
	uint32_t submitted;	/* ours: entries the kernel has taken */
	uint32_t completion_mask;
	uint32_t submission_mask;
	uint32_t *submission_head;
	uint32_t *submission_tail;
	uint32_t *completion_head;
	uint32_t *completion_tail;
	struct ring_sqe *sqes;
	struct ring_cqe *cqes;
	void *memory;
	size_t memory_size;
	size_t sqes_size;
};

struct chunk;

struct nvmefence_queue {
	struct nvmefence_queue *next;
	uint32_t generation;	/* of the process: forks since the module was loaded */
	bool has_ring;
	bool fallback;		/* devices that refuse the ring are served by threads */
	bool closed;
	bool signalled;
	int event_fd;
	uint32_t in_flight;
	uint32_t waiting;
	uint32_t opened;
	struct device **devices;
	uint32_t device_count;
	struct node *nodes;
	struct chunk *chunks;
	struct slot *free;
	struct slot_list done;
	struct ring ring;
};

extern pthread_mutex_t nvmefence_lock;

uint64_t nvmefence_now_ns(void);

/* All functions below want the lock held. */

/* slots.c */
void slot_list_push(struct slot_list *list, struct slot *slot);
struct slot *slot_list_pop(struct slot_list *list);
uint32_t slot_list_drop_abandoned(struct slot_list *list);	/* frees them, returns how many */
void slot_free(struct slot *slot);
int slots_add(struct nvmefence_queue *queue);
int slots_reserve(struct nvmefence_queue *queue, uint32_t count);	/* that many are free afterwards */
void slots_abandon(struct nvmefence_queue *queue, const struct device *device);
/* Mark what of a batch is not done, at most `max`, and list it. */
uint32_t slots_abandon_batch(struct nvmefence_queue *queue, uint64_t batch, struct slot **slots, uint32_t max);
void slots_release(struct nvmefence_queue *queue);	/* unmaps everything */

/* Fill in what both backends hand to the kernel. */
struct nvme_passthrough;
void slot_passthrough(const struct slot *slot, struct nvme_passthrough *passthrough);

/* devices.c */
struct device *device_find(const struct nvmefence_queue *queue, int handle);
void device_release(struct nvmefence_queue *queue, struct device *device);
/* Close and free a released device as soon as no command uses its descriptor. */
void device_settle(struct nvmefence_queue *queue, struct device *device);

/* queue.c */
bool queue_is_foreign(const struct nvmefence_queue *queue);	/* made before a fork, by the parent */

/* Stamps the start. True, with the slot finished, when it must no longer be handed to the kernel. */
bool slot_overdue(struct slot *slot);

/* The kernel is done with a started slot, or never got it. The queue stays valid until queue_settle. */
void slot_finish(struct slot *slot, int32_t status, uint32_t result, uint64_t finished_ns);

/* Start what waits for worker threads, as far as the caps allow. Ring commands are left to the submitter. */
void queue_dispatch_threads(struct nvmefence_queue *queue);

/* Free the queue if it is closed and nothing of it is in flight. */
void queue_settle(struct nvmefence_queue *queue);

/* uring.c */
int ring_open(struct ring *ring);
void ring_close(struct ring *ring);
void ring_start(struct slot *slot);
void ring_flush(struct nvmefence_queue *queue);
void ring_reap(struct nvmefence_queue *queue);
uint32_t ring_ready(const struct ring *ring);

/* threads.c */
void threads_start(struct slot *slot);
void threads_forget_after_fork(void);

#endif
