/* SPDX-License-Identifier: Apache-2.0 */
/* See shim.h. Preloaded into an interpreter, or linked into the stress program. */
#include "shim.h"

#include <dlfcn.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <linux/nvme_ioctl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "kernel_abi.h"

#define SAME(ours, member, theirs, other) \
	_Static_assert(offsetof(ours, member) == offsetof(theirs, other), #ours "." #member)

/* csrc/kernel_abi.h against the installed headers. */
SAME(struct ring_sqe, fd, struct io_uring_sqe, fd);
SAME(struct ring_sqe, cmd_op, struct io_uring_sqe, cmd_op);
SAME(struct ring_sqe, addr, struct io_uring_sqe, addr);
SAME(struct ring_sqe, uring_cmd_flags, struct io_uring_sqe, uring_cmd_flags);
SAME(struct ring_sqe, user_data, struct io_uring_sqe, user_data);
SAME(struct ring_sqe, buf_index, struct io_uring_sqe, buf_index);
SAME(struct ring_sqe, file_index, struct io_uring_sqe, file_index);
SAME(struct ring_sqe, cmd, struct io_uring_sqe, cmd);
SAME(struct ring_cqe, res, struct io_uring_cqe, res);
SAME(struct ring_cqe, big_cqe, struct io_uring_cqe, big_cqe);
SAME(struct ring_params, features, struct io_uring_params, features);
SAME(struct ring_params, sq, struct io_uring_params, sq_off);
SAME(struct ring_params, cq, struct io_uring_params, cq_off);
SAME(struct ring_submission_offsets, array, struct io_sqring_offsets, array);
SAME(struct ring_completion_offsets, cqes, struct io_cqring_offsets, cqes);
SAME(struct ring_probe, ops, struct io_uring_probe, ops);
SAME(struct nvme_passthrough, addr, struct nvme_uring_cmd, addr);
SAME(struct nvme_passthrough, data_len, struct nvme_uring_cmd, data_len);
SAME(struct nvme_passthrough, cdw10, struct nvme_uring_cmd, cdw10);
SAME(struct nvme_passthrough, timeout_ms, struct nvme_uring_cmd, timeout_ms);
SAME(struct nvme_passthrough, timeout_ms, struct nvme_admin_cmd, timeout_ms);
SAME(struct nvme_passthrough, result, struct nvme_admin_cmd, result);
_Static_assert(sizeof(struct ring_params) == sizeof(struct io_uring_params), "io_uring_params");
_Static_assert(PASSTHROUGH_RING == NVME_URING_CMD_ADMIN, "NVME_URING_CMD_ADMIN");
_Static_assert(PASSTHROUGH_IOCTL == NVME_IOCTL_ADMIN_CMD, "NVME_IOCTL_ADMIN_CMD");
_Static_assert(RING_OP_URING_CMD == IORING_OP_URING_CMD, "IORING_OP_URING_CMD");
_Static_assert(RING_SETUP_SQE128 == IORING_SETUP_SQE128, "IORING_SETUP_SQE128");
_Static_assert(RING_SETUP_CQE32 == IORING_SETUP_CQE32, "IORING_SETUP_CQE32");
_Static_assert(RING_SETUP_SUBMIT_ALL == IORING_SETUP_SUBMIT_ALL, "IORING_SETUP_SUBMIT_ALL");
_Static_assert(RING_SETUP_CQSIZE == IORING_SETUP_CQSIZE, "IORING_SETUP_CQSIZE");
_Static_assert(RING_REGISTER_PROBE == IORING_REGISTER_PROBE, "IORING_REGISTER_PROBE");
_Static_assert(RING_OP_SUPPORTED == IO_URING_OP_SUPPORTED, "IO_URING_OP_SUPPORTED");
_Static_assert(SYS_IO_URING_SETUP == __NR_io_uring_setup, "io_uring_setup");
_Static_assert(SYS_IO_URING_ENTER == __NR_io_uring_enter, "io_uring_enter");
_Static_assert(SYS_IO_URING_REGISTER == __NR_io_uring_register, "io_uring_register");

enum { PEAKS = 64, RINGS = 256 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool gate_open[SHIM_GATES];
static int gate_pipe[SHIM_GATES][2];
static uint32_t journal[SHIM_JOURNAL];
static uint32_t journalled, faults;
static struct { uint64_t device; uint32_t now, peak; } peaks[PEAKS];
static int enter_error, enter_failures, setup_error, no_threads;
static uint32_t enters;

/* A view of our own on each ring's submission queue. */
static struct {
	long fd;
	uint8_t *ring;
	struct ring_sqe *sqes;
	struct ring_params params;
} rings[RINGS];

static void take_lock(void)
{
	pthread_mutex_lock(&lock);
}

static void give_lock(void)
{
	pthread_mutex_unlock(&lock);
}

/* A child must not inherit the lock from a thread it does not have. */
__attribute__((constructor)) static void watch_forks(void)
{
	pthread_atfork(take_lock, give_lock, give_lock);
}

void shim_open_gate(uint32_t gate)
{
	pthread_mutex_lock(&lock);
	gate_open[gate] = true;
	if (gate_pipe[gate][1]) {
		close(gate_pipe[gate][1]);	/* end of file: a read of the pipe gives 0 */
		gate_pipe[gate][1] = 0;
	}
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

void shim_close_gate(uint32_t gate)
{
	pthread_mutex_lock(&lock);
	gate_open[gate] = false;
	if (gate_pipe[gate][0] && !gate_pipe[gate][1]) {
		close(gate_pipe[gate][0]);
		gate_pipe[gate][0] = 0;
	}
	pthread_mutex_unlock(&lock);
}

void shim_feed(uint32_t gate, int value, uint32_t count)
{
	uint8_t bytes[4096];

	memset(bytes, value, sizeof(bytes));
	if (write(gate_pipe[gate][1], bytes, count) != (ssize_t)count)
		__builtin_trap();
}

uint32_t shim_journal(uint32_t *values, uint32_t max)
{
	uint32_t count;

	pthread_mutex_lock(&lock);
	count = journalled < max ? journalled : max;
	memcpy(values, journal, count * sizeof(*values));
	pthread_mutex_unlock(&lock);
	return count;
}

uint32_t shim_peak(uint64_t device)
{
	uint32_t peak = 0;

	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < PEAKS; i++) {
		if (peaks[i].peak && peaks[i].device == device)
			peak = peaks[i].peak;
	}
	pthread_mutex_unlock(&lock);
	return peak;
}

uint32_t shim_faults(void)
{
	return faults;
}

uint32_t shim_enters(void)
{
	return enters;
}

void shim_fail_enter(int error, int count)
{
	enter_error = error;
	enter_failures = count;
}

void shim_fail_setup(int error)
{
	setup_error = error;
}

void shim_fail_threads(int fail)
{
	no_threads = fail;
}

static void note(uint32_t value)
{
	if (journalled < SHIM_JOURNAL)
		journal[journalled++] = value;
}

static uint64_t device_of(int fd)
{
	struct stat status;

	return fstat(fd, &status) == 0 ? status.st_rdev : UINT64_MAX;
}

static void count_ioctl(uint64_t device, int change)
{
	size_t i = 0;

	while (i < PEAKS - 1 && peaks[i].peak && peaks[i].device != device)
		i++;
	peaks[i].device = device;
	peaks[i].now += (uint32_t)change;
	if (peaks[i].now > peaks[i].peak)
		peaks[i].peak = peaks[i].now;
}

static void wait_milliseconds(uint32_t milliseconds)
{
	const struct timespec time = {milliseconds / 1000, (long)(milliseconds % 1000) * 1000000};

	nanosleep(&time, NULL);
}

static uint32_t adler32(const struct nvme_admin_cmd *command)
{
	const uint8_t *bytes = (const uint8_t *)(uintptr_t)command->addr;
	uint32_t low = 1, high = 0;

	for (uint32_t i = 0; i < command->data_len; i++) {
		low = (low + bytes[i]) % 65521;
		high = (high + low) % 65521;
	}
	return high << 16 | low;
}

static int answer(int fd, struct nvme_admin_cmd *command)
{
	uint64_t device = device_of(fd);

	pthread_mutex_lock(&lock);
	note(command->cdw15);
	count_ioctl(device, 1);
	if (command->cdw10 == SHIM_LATE) {
		pthread_mutex_unlock(&lock);
		wait_milliseconds(command->cdw11);
		pthread_mutex_lock(&lock);
	}
	while (command->cdw10 == SHIM_HANG && !gate_open[command->cdw11])
		pthread_cond_wait(&changed, &lock);
	count_ioctl(device, -1);
	if (device_of(fd) != device)
		faults++;
	if (command->data_len && command->cdw12 < SHIM_KEEP)
		memset((void *)(uintptr_t)command->addr, (int)command->cdw12, command->data_len);
	command->result = command->cdw12 == SHIM_SUM ? adler32(command) : command->cdw13;
	pthread_mutex_unlock(&lock);
	if ((int32_t)command->cdw14 >= 0)
		return (int)command->cdw14;
	errno = -(int32_t)command->cdw14;
	return -1;
}

int ioctl(int fd, unsigned long request, ...)
{
	int (*next)(int, unsigned long, ...) = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
	va_list arguments;
	void *argument;

	va_start(arguments, request);
	argument = va_arg(arguments, void *);
	va_end(arguments);
	if (request == NVME_IOCTL_ADMIN_CMD && ((struct nvme_admin_cmd *)argument)->opcode == SHIM_OPCODE)
		return answer(fd, argument);
	return next(fd, request, argument);
}

/* ThreadSanitizer must see threads being made; it has no test that needs them refused. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define THREADS_ARE_WATCHED
#endif
#endif

#ifndef THREADS_ARE_WATCHED
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument)
{
	int (*next)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) =
		(int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))dlsym(RTLD_NEXT,
											    "pthread_create");

	return no_threads ? EAGAIN : next(thread, attributes, start, argument);
}
#endif

/* rings ---------------------------------------------------------------------------------------------------- */

static void watch_ring(long fd, const struct ring_params *params)
{
	size_t size = params->sq.array + params->sq_entries * sizeof(uint32_t);
	size_t i = 0;

	while (i < RINGS - 1 && rings[i].ring && rings[i].fd != fd)
		i++;
	if (rings[i].ring) {	/* of an earlier ring with this number: its memory is shared with nobody any more */
		munmap(rings[i].ring, rings[i].params.sq.array + rings[i].params.sq_entries * sizeof(uint32_t));
		munmap(rings[i].sqes, rings[i].params.sq_entries * sizeof(struct ring_sqe));
	}
	rings[i].fd = fd;
	rings[i].params = *params;
	rings[i].ring = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, (int)fd, RING_OFF_RINGS);
	rings[i].sqes = mmap(NULL, params->sq_entries * sizeof(struct ring_sqe), PROT_READ | PROT_WRITE, MAP_SHARED,
			     (int)fd, RING_OFF_SQES);
}

/* Make it a read of the gate's pipe into the command's own buffer. Only /dev/null: other devices refuse the ring. */
static void rewrite(struct ring_sqe *sqe)
{
	struct nvme_passthrough command = sqe->cmd;

	if (sqe->opcode != IORING_OP_URING_CMD || command.opcode != SHIM_OPCODE || device_of(sqe->fd) != makedev(1, 3))
		return;
	note(command.cdw15);
	if (command.cdw10 != SHIM_HANG || gate_open[command.cdw11])
		return;
	if (!gate_pipe[command.cdw11][0] && pipe(gate_pipe[command.cdw11]) != 0)
		__builtin_trap();
	memset(&sqe->cmd, 0, sizeof(sqe->cmd));
	sqe->opcode = IORING_OP_READ;
	sqe->fd = gate_pipe[command.cdw11][0];
	sqe->cmd_op = 0;
	sqe->addr = command.addr;
	sqe->len = command.data_len;
}

static void rewrite_entries(long fd, uint32_t count)
{
	for (size_t i = 0; i < RINGS; i++) {
		const struct ring_params *params = &rings[i].params;
		uint32_t head;

		if (!rings[i].ring || rings[i].fd != fd)
			continue;
		head = *(uint32_t *)(void *)(rings[i].ring + params->sq.head);
		for (uint32_t entry = head; entry != head + count; entry++)
			rewrite(&rings[i].sqes[entry & (params->sq_entries - 1)]);
	}
}

/* Reads six arguments whether or not they were passed, as the C library does. */
__attribute__((no_sanitize("address", "thread", "undefined"))) long syscall(long number, ...)
{
	long (*next)(long, ...) = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
	long a[6];
	long status;
	va_list arguments;

	va_start(arguments, number);
	for (size_t i = 0; i < 6; i++)
		a[i] = va_arg(arguments, long);
	va_end(arguments);
	if (number == __NR_io_uring_setup && setup_error) {
		errno = setup_error;
		return -1;
	}
	if (number == __NR_io_uring_enter) {
		__atomic_add_fetch(&enters, 1, __ATOMIC_RELAXED);
		if (enter_failures > 0 && enter_failures--) {
			errno = enter_error;
			return -1;
		}
		pthread_mutex_lock(&lock);
		rewrite_entries((int)a[0], (uint32_t)a[1]);
		pthread_mutex_unlock(&lock);
	}
	status = next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
	if (number == __NR_io_uring_setup && status >= 0) {
		pthread_mutex_lock(&lock);
		watch_ring(status, (const struct ring_params *)a[1]);
		pthread_mutex_unlock(&lock);
	}
	return status;
}
