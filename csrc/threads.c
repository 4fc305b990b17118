/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NVME_IOCTL_ADMIN_CMD (nvme_user_cmd in drivers/nvme/host/ioctl.c), one worker thread per command in flight.
 *
 * The ioctl sleeps uninterruptibly until the kernel is done with the command, so a worker may be away for minutes, or
 * for good. Workers are detached and belong to the process, not to a queue; nobody waits for one. There is one
 * for each command in flight: however many hang, the next command gets a thread, and what bounds them is the cap
 * on commands per device.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"
#include "kernel_abi.h"

enum {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(NVMEFENCE_LARGE_STACKS)
	STACK_BYTES = 1 << 20,
#else
	STACK_BYTES = 128 << 10,
#endif
	IDLE_SECONDS = 30,	/* after which a worker without work ends */
};

static struct {
	struct slot_list jobs;
	uint32_t queued;	/* jobs not yet taken */
	uint32_t idle;		/* workers waiting for one, or just created */
	uint32_t workers;
} pool;

static pthread_cond_t work;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void prepare_condition(void)
{
	pthread_condattr_t attributes;

	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&work, &attributes);
	pthread_condattr_destroy(&attributes);
}

/* Lock held, in a child that has none of these threads. */
void threads_forget_after_fork(void)
{
	memset(&pool, 0, sizeof(pool));
	prepare_condition();
}

/* Lock held. Tell the queue's owner to reap, once until he does. */
static void notify(struct nvmefence_queue *queue)
{
	const uint64_t one = 1;

	if (queue->signalled || queue->event_fd < 0)
		return;
	queue->signalled = true;
	while (write(queue->event_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

/* Lock held, but not while in the kernel. The caller counts as idle again afterwards. */
static void carry_out(struct slot *slot)
{
	struct nvmefence_queue *queue = slot->queue;
	struct nvme_passthrough command;
	uint64_t finished;
	int fd = slot->device->fd;
	int status;

	if (!slot_overdue(slot)) {
		slot_passthrough(slot, &command);
		pthread_mutex_unlock(&nvmefence_lock);
		status = ioctl(fd, PASSTHROUGH_IOCTL, &command);
		if (status < 0)
			status = -errno;
		finished = nvmefence_now_ns();
		pthread_mutex_lock(&nvmefence_lock);
		slot_finish(slot, status, command.result, finished);
	}
	pool.idle++;	/* before the dispatch, which then takes this thread rather than make one */
	queue_dispatch_threads(queue);
	notify(queue);
	queue_settle(queue);
}

/* Lock held. False after a long time without a job. */
static bool wait_for_job(void)
{
	struct timespec until;
	int status = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += IDLE_SECONDS;
	while (!pool.jobs.head && status != ETIMEDOUT)
		status = pthread_cond_timedwait(&work, &nvmefence_lock, &until);
	return pool.jobs.head != NULL;
}

static void *worker(void *unused)
{
	pthread_setname_np(pthread_self(), "nvmefence-ioctl");
	pthread_mutex_lock(&nvmefence_lock);
	while (wait_for_job()) {
		struct slot *slot = slot_list_pop(&pool.jobs);

		pool.queued--;
		pool.idle--;
		carry_out(slot);
	}
	pool.idle--;
	pool.workers--;
	pthread_mutex_unlock(&nvmefence_lock);
	return unused;
}

/* Lock held. One more worker, which no signal is ever delivered to. */
static int add_worker(void)
{
	pthread_attr_t attributes;
	pthread_t thread;
	sigset_t all, before;
	int status;

	sigfillset(&all);
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	status = pthread_create(&thread, &attributes, worker, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	if (status == 0) {
		pool.idle++;
		pool.workers++;
	}
	return -status;
}

/*
 * Where no thread is to be had, the command waits for a worker to come back, at most until its deadline; with
 * no worker at all it fails.
 */
void threads_start(struct slot *slot)
{
	int status = 0;

	pthread_once(&once, prepare_condition);
	if (pool.queued + 1 > pool.idle)
		status = add_worker();
	if (status < 0 && pool.workers == 0) {
		slot->started_ns = nvmefence_now_ns();
		slot_finish(slot, status, 0, slot->started_ns);
		return;
	}
	pool.queued++;
	slot_list_push(&pool.jobs, slot);
	pthread_cond_signal(&work);
}
