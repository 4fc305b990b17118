/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The submission queue: many NVMe admin commands in flight on many character devices.
 *
 * It moves bytes and knows no opcode. A command is a 64-byte submission queue entry (NVM Express Base
 * Specification 2.0, section 3.3.3.1) whose pointers and command identifier are zero; the queue fills in the
 * data pointer.
 *
 * Buffers belong to the queue, never to the caller: a controller may write to the buffer of a command long
 * after its caller has stopped waiting, and neither Linux interface can take a command back. A buffer is used
 * again only when the kernel has completed the command it was lent to.
 *
 * Closing a queue whose commands are in flight frees only what the kernel no longer uses. The rest (buffers,
 * descriptors, the ring) goes to a process-wide list of orphans, and is freed when the last of its commands has
 * completed: by the worker thread that saw it (ioctl), or by the next call of nvmefence_queue_open, _close or
 * nvmefence_in_flight (io_uring). A command that never completes keeps its queue's memory until the process
 * exits. That is meant: the alternative is a controller that writes into memory in use for something else.
 *
 * Process exit. An io_uring command in flight does not delay it: exit cancels only what io_uring tracks
 * (io_uring_files_cancel), and the ring is torn down by a kernel worker; the pages stay pinned meanwhile. execve
 * in the process itself does wait for all of them (io_uring_task_cancel). A thread inside the ioctl sleeps
 * uninterruptibly: the process stays a zombie, its open files (and with them its file locks) stay open, and its
 * parent's waitpid waits until the kernel has given up on the command. The same holds for a ring command
 * that the kernel handed to one of its own workers because the controller had no free tag, hence the cap on
 * commands in flight per device.
 *
 * Fork. Queues do not survive it. In the child every function refuses a queue of the parent with -ECHILD,
 * nvmefence_queue_close does nothing, and the buffers are not mapped there (MADV_DONTFORK: copy-on-write would
 * part the parent's page from the page the controller writes to). The child may open queues of its own.
 *
 * Threads. Every function may be called from any thread. With io_uring, commands must be submitted from a thread
 * that outlives them.
 *
 * Functions return 0 or a count, or -errno.
 */
#ifndef NVMEFENCE_QUEUE_H
#define NVMEFENCE_QUEUE_H

#include <stdint.h>

enum {
	NVMEFENCE_PAGE = 4096,		/* bytes of a command's buffer */
	NVMEFENCE_UNWRITTEN = 0xff,	/* what a read buffer holds before submission */
	NVMEFENCE_PER_DEVICE = 24,	/* commands in the kernel per character device, all handles of a queue */
	NVMEFENCE_PER_QUEUE = 4096,	/* commands in the kernel per queue */
};

enum nvmefence_backend {
	NVMEFENCE_AUTO = 0,	/* io_uring where the kernel has it; ioctl for devices that refuse it, or for all */
	NVMEFENCE_IO_URING = 1,
	NVMEFENCE_IOCTL = 2,
};

struct nvmefence_queue;

struct nvmefence_command {
	uint8_t sqe[64];
	uint32_t timeout_ms;	/* the kernel's timeout; 0: the driver's default */
	uint32_t read_length;	/* bytes the controller returns, at most NVMEFENCE_PAGE */
	uint32_t send_length;	/* bytes sent to the controller, likewise; one of the two is 0 */
	uint32_t reserved;
};

struct nvmefence_completion {
	uint64_t batch;		/* as given to nvmefence_submit */
	uint32_t index;		/* position in that batch */
	int32_t status;		/* 0 (see uring.c for its worth), positive NVMe status, or -errno */
	uint32_t result;	/* dword 0 of the completion queue entry */
	uint32_t length;	/* bytes of data returned; 0 unless status is 0 */
	uint64_t started_ns;	/* CLOCK_MONOTONIC, when it was handed to the kernel (or dropped) */
	uint64_t finished_ns;	/* CLOCK_MONOTONIC, when its completion was seen */
};

/*
 * 0 when io_uring passthrough can be had, by trying: -ENOSYS and -EPERM from io_uring_setup (absent; denied by
 * kernel.io_uring_disabled or seccomp), -EINVAL (no 128-byte entries), -EOPNOTSUPP (no IORING_OP_URING_CMD). Whether
 * a device's driver takes it is known only from its first command.
 */
int nvmefence_probe_io_uring(void);

/* Make a queue. With NVMEFENCE_IO_URING fails as the probe does. */
int nvmefence_queue_open(int backend, struct nvmefence_queue **queue);

/* Never blocks. The queue is gone for the caller, whatever is in flight (see above). */
void nvmefence_queue_close(struct nvmefence_queue *queue);

/* NVMEFENCE_IO_URING or NVMEFENCE_IOCTL. */
int nvmefence_queue_backend(struct nvmefence_queue *queue);

/* Two descriptors to watch for reading: workers signal the first, the second is the ring (-1: no ring). */
int nvmefence_queue_event_fd(struct nvmefence_queue *queue);
int nvmefence_queue_ring_fd(struct nvmefence_queue *queue);

/*
 * Open a character device read-only (passthrough needs CAP_SYS_ADMIN, not write access: nvme_cmd_allowed) and
 * return a handle. Handles are not used again soon, so that a stale one is refused rather than another drive.
 * -ENODEV: not a character device. -EMFILE: more than 4096 handles.
 */
int nvmefence_device_open(struct nvmefence_queue *queue, const char *path);

/*
 * Give a handle back. Commands of it that wait here are dropped unsent, those in the kernel abandoned; none of
 * them is reported by nvmefence_reap. The descriptor is closed when the last of them has completed, because a
 * thread may be inside an ioctl on it.
 */
int nvmefence_device_release(struct nvmefence_queue *queue, int device);

/* What carries this device's commands, as known so far: NVMEFENCE_IO_URING or NVMEFENCE_IOCTL. */
int nvmefence_device_backend(struct nvmefence_queue *queue, int device);

/*
 * Submit `count` independent commands. `data` holds what they send, one after another. All or nothing is taken:
 * -EBADF (no such handle), -EINVAL, -ENOMEM. What the kernel refuses later is a completion with a negative status.
 * More than NVMEFENCE_PER_DEVICE wait here in order of arrival. A command not yet handed to the kernel at
 * `until_ns` (CLOCK_MONOTONIC; 0: never) never will be, and completes with -ETIME.
 *
 * They are handed to the kernel by the next nvmefence_reap, which must follow: so that what is submitted for many
 * devices goes there in one system call.
 */
int nvmefence_submit(struct nvmefence_queue *queue, int device, uint64_t batch, uint32_t count,
		     const struct nvmefence_command *commands, const uint8_t *data, uint64_t data_length,
		     uint64_t until_ns);

/*
 * Hand over what was submitted, take up to `max` completions and return their number; their data lies in `data`, one after another, for
 * which `max` * NVMEFENCE_PAGE bytes are always enough. Call again while it returns `max`.
 */
int nvmefence_reap(struct nvmefence_queue *queue, struct nvmefence_completion *completions, uint32_t max,
		   uint8_t *data);

/*
 * Stop waiting for a batch: what waits here is never sent, what the kernel has is dropped when it completes. Each
 * of these is reported once in `completions`, with status -ETIME, up to `max`; call again until it returns
 * 0. Completions that have arrived stay for nvmefence_reap: reap before and after.
 */
int nvmefence_abandon(struct nvmefence_queue *queue, uint64_t batch, struct nvmefence_completion *completions,
		      uint32_t max);

/* Commands the kernel still holds, of all queues of the process, abandoned and orphaned ones included. */
uint64_t nvmefence_in_flight(void);

#endif
