/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The least that cutting hosts off takes: a yardstick, not a fence. One process, all drives side by side, and
 * only the commands that cannot be left out: per drive CNS 10h, then for each namespace CNS 12h, detach, CNS 12h
 * again. Each namespace goes its own way as soon as the answer before is there. Nothing is checked that a fence
 * must check, nothing is tried twice, nothing is recorded. Several controllers of a drive are named by one command.
 *
 *     bare_minimum [one-by-one] detach|attach DEVICE:CNTLID[,CNTLID...]...
 *
 * With `one-by-one` the same commands go through the ioctl, each when the one before is done.
 *
 * prints {"seconds": from the first submission to the last completion, "commands": sent, "namespaces": cut}.
 * `attach` brings back what `detach` took. Exit code 0: every command did what it should.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/io_uring.h>
#include <linux/nvme_ioctl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
	PAGE = 4096,
	IN_FLIGHT = 24,		/* per controller: its admin queue has about 30 tags */
	MAX_DRIVES = 64,
	MAX_NAMESPACES = 256,	/* of a drive */
	MAX_CONTROLLERS = 64,	/* of a drive, to be cut off */
	RING_ENTRIES = 2048,	/* more than MAX_DRIVES * IN_FLIGHT */
	IDENTIFY = 0x06,
	NAMESPACE_ATTACHMENT = 0x15,
	ALLOCATED_NAMESPACES = 0x10,
	ATTACHED_CONTROLLERS = 0x12,
	ATTACH = 0,
	DETACH = 1,
	ALREADY_ATTACHED = 0x118,
	STATUS_MASK = 0x7ff,
};

enum step { READ, CHANGE, READ_BACK, DONE };

struct work;

struct drive {
	const char *path;
	uint16_t controllers[1 + MAX_CONTROLLERS];	/* their number first, then ascending: a Controller List */
	int fd;
	uint32_t in_flight;
	uint32_t waiting_first, waiting_end;	/* in `waiting` */
	uint32_t count;
	struct work *namespaces;
	struct work **waiting;
	uint8_t *list;		/* CNS 10h */
	uint8_t *target;	/* `controllers` as a page */
};

/* A namespace on its way; `nsid` 0 is the drive's CNS 10h. */
struct work {
	struct drive *drive;
	uint32_t nsid;
	enum step step;
	uint8_t *page;
};

struct ring {
	int fd;
	uint32_t *sq_tail, *cq_head, *cq_tail;
	uint32_t sq_mask, cq_mask;
	uint32_t prepared;	/* entries written and not yet handed over */
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
};

static struct ring ring;
static bool attaching;
static uint32_t commands, outstanding, changed;

static void die(const char *what, int error)
{
	fprintf(stderr, "bare_minimum: %s: %s\n", what, strerror(error));
	exit(1);
}

static void *allocate(size_t count, size_t size)
{
	void *memory = calloc(count, size);

	if (memory == NULL)
		die("memory", ENOMEM);
	return memory;
}

static uint8_t *page_new(void)
{
	void *page = aligned_alloc(PAGE, PAGE);

	if (page == NULL)
		die("memory", ENOMEM);
	return memset(page, 0xff, PAGE);	/* also so that no page fault falls into the time measured */
}

static void *ring_map(size_t size, off_t offset)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd, offset);

	if (memory == MAP_FAILED)
		die("mapping the ring", errno);
	return memory;
}

static void ring_open(void)
{
	struct io_uring_params params = { .flags = IORING_SETUP_SQE128 | IORING_SETUP_CQE32 };
	uint8_t *sq, *cq;

	ring.fd = (int)syscall(__NR_io_uring_setup, RING_ENTRIES, &params);
	if (ring.fd < 0)
		die("io_uring_setup", errno);
	sq = ring_map(params.sq_off.array + params.sq_entries * sizeof(uint32_t), IORING_OFF_SQ_RING);
	cq = ring_map(params.cq_off.cqes + params.cq_entries * 2 * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
	ring.sqes = ring_map(params.sq_entries * 2 * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
	ring.sq_tail = (uint32_t *)(void *)(sq + params.sq_off.tail);
	ring.sq_mask = *(uint32_t *)(void *)(sq + params.sq_off.ring_mask);
	ring.cq_head = (uint32_t *)(void *)(cq + params.cq_off.head);
	ring.cq_tail = (uint32_t *)(void *)(cq + params.cq_off.tail);
	ring.cq_mask = *(uint32_t *)(void *)(cq + params.cq_off.ring_mask);
	ring.cqes = (struct io_uring_cqe *)(void *)(cq + params.cq_off.cqes);
	for (uint32_t n = 0; n < params.sq_entries; n++)
		((uint32_t *)(void *)(sq + params.sq_off.array))[n] = n;
}

/* The command of the step that the work is at. */
static struct nvme_uring_cmd command_of(const struct work *work)
{
	struct nvme_uring_cmd command = {
		.opcode = IDENTIFY,
		.nsid = work->nsid,
		.addr = (uint64_t)(uintptr_t)work->page,
		.data_len = PAGE,
		.cdw10 = work->nsid ? ATTACHED_CONTROLLERS : ALLOCATED_NAMESPACES,
	};

	if (work->step == CHANGE) {
		command.opcode = NAMESPACE_ATTACHMENT;
		command.cdw10 = attaching ? ATTACH : DETACH;
		command.addr = (uint64_t)(uintptr_t)work->drive->target;
	}
	commands++;
	return command;
}

/* Put one command into the ring; ring_enter hands it over. */
static void ring_prepare(struct work *work)
{
	uint32_t tail = *ring.sq_tail;
	struct io_uring_sqe *sqe = &ring.sqes[2 * (tail & ring.sq_mask)];
	struct nvme_uring_cmd command = command_of(work);

	memset(sqe, 0, 2 * sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = work->drive->fd;
	sqe->cmd_op = NVME_URING_CMD_ADMIN;
	sqe->user_data = (uint64_t)(uintptr_t)work;
	memcpy(sqe->cmd, &command, sizeof(command));
	__atomic_store_n(ring.sq_tail, tail + 1, __ATOMIC_RELEASE);
	ring.prepared++;
}

static void send_or_wait(struct work *work)
{
	struct drive *drive = work->drive;

	outstanding++;
	if (drive->in_flight < IN_FLIGHT) {
		drive->in_flight++;
		ring_prepare(work);
	} else {
		drive->waiting[drive->waiting_end++ % MAX_NAMESPACES] = work;
	}
}

static void ring_enter(void)
{
	long taken = syscall(__NR_io_uring_enter, ring.fd, ring.prepared, 1, IORING_ENTER_GETEVENTS, NULL, 0);

	if (taken < 0 && errno != EINTR)
		die("io_uring_enter", errno);
	if (taken > 0)
		ring.prepared -= (uint32_t)taken;
}

static void namespaces_found(struct drive *drive)
{
	uint32_t nsid;

	for (; drive->count < MAX_NAMESPACES; drive->count++) {
		memcpy(&nsid, drive->list + drive->count * sizeof(nsid), sizeof(nsid));
		if (nsid == 0)
			break;
		drive->namespaces[drive->count] = (struct work) {
			.drive = drive,
			.nsid = nsid,
			.step = attaching ? CHANGE : READ,
			.page = drive->namespaces[drive->count].page,
		};
		send_or_wait(&drive->namespaces[drive->count]);
	}
}

/* Whether the controllers are attached: all of them, or none; anything else is not what the laboratory left. */
static bool is_attached(const struct work *work)
{
	const uint16_t *wanted = work->drive->controllers;
	uint16_t list[PAGE / 2];
	uint32_t found = 0;

	memcpy(list, work->page, PAGE);
	if (list[0] >= PAGE / 2)
		die("Controller List", EPROTO);
	for (uint32_t n = 1, next = 1; n <= list[0] && next <= wanted[0]; n++) {
		while (next <= wanted[0] && wanted[next] < list[n])
			next++;
		if (next <= wanted[0] && wanted[next] == list[n])
			found++;
	}
	if (found != 0 && found != wanted[0])
		die("attached in part", EBUSY);
	return found != 0;
}

/* Take a completed step in and begin the next. */
static void advance(struct work *work, int32_t status)
{
	bool expected = work->step == CHANGE && attaching && (status & STATUS_MASK) == ALREADY_ATTACHED;

	if (status != 0 && !expected) {
		fprintf(stderr, "bare_minimum: %s namespace %" PRIu32 " step %d: status %" PRIx32 "h\n",
			work->drive->path, work->nsid, (int)work->step, (uint32_t)status);
		exit(1);
	}
	if (work->nsid == 0) {
		namespaces_found(work->drive);
		return;
	}
	switch (work->step) {
	case READ:
		work->step = is_attached(work) ? CHANGE : DONE;
		break;
	case CHANGE:
		changed++;
		work->step = attaching ? DONE : READ_BACK;
		break;
	default:
		if (is_attached(work))
			die("still attached", EBUSY);
		work->step = DONE;
	}
	if (work->step != DONE)
		send_or_wait(work);
}

static void ring_reap(void)
{
	uint32_t head = *ring.cq_head;

	while (head != __atomic_load_n(ring.cq_tail, __ATOMIC_ACQUIRE)) {
		const struct io_uring_cqe *cqe = &ring.cqes[2 * (head & ring.cq_mask)];
		struct work *work = (struct work *)(uintptr_t)cqe->user_data;
		struct drive *drive = work->drive;

		outstanding--;
		drive->in_flight--;
		if (drive->waiting_first != drive->waiting_end) {
			drive->in_flight++;
			ring_prepare(drive->waiting[drive->waiting_first++ % MAX_NAMESPACES]);
		}
		advance(work, cqe->res);
		__atomic_store_n(ring.cq_head, ++head, __ATOMIC_RELEASE);
	}
}

/* One drive's commands, through the ioctl, each when the one before is done. */
static void one_by_one(struct drive *drive)
{
	while (drive->waiting_first != drive->waiting_end) {
		struct work *work = drive->waiting[drive->waiting_first++ % MAX_NAMESPACES];
		struct nvme_uring_cmd wanted = command_of(work);
		struct nvme_admin_cmd command = {
			.opcode = wanted.opcode,
			.nsid = wanted.nsid,
			.addr = wanted.addr,
			.data_len = wanted.data_len,
			.cdw10 = wanted.cdw10,
		};
		int status = ioctl(drive->fd, NVME_IOCTL_ADMIN_CMD, &command);

		outstanding--;
		advance(work, status < 0 ? -errno : status);
	}
}

/* "DEVICE:CNTLID,CNTLID", the ids ascending. */
static void drive_open(struct drive *drive, char *argument)
{
	char *colon = strrchr(argument, ':');

	if (colon == NULL)
		die(argument, EINVAL);
	for (char *next = colon; *next != '\0';) {
		if (drive->controllers[0] == MAX_CONTROLLERS || next[1] < '0' || next[1] > '9')
			die(argument, EINVAL);
		drive->controllers[++drive->controllers[0]] = (uint16_t)strtoul(next + 1, &next, 10);
	}
	*colon = '\0';
	drive->path = argument;
	drive->fd = open(argument, O_RDONLY | O_CLOEXEC);
	if (drive->fd < 0)
		die(argument, errno);
	drive->namespaces = allocate(MAX_NAMESPACES, sizeof(*drive->namespaces));
	drive->waiting = allocate(MAX_NAMESPACES, sizeof(struct work *));
	drive->list = page_new();
	drive->target = memset(page_new(), 0, PAGE);
	memcpy(drive->target, drive->controllers, sizeof(drive->controllers));
	for (uint32_t n = 0; n < MAX_NAMESPACES; n++)
		drive->namespaces[n].page = page_new();
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

int main(int count, char **arguments)
{
	static struct drive drives[MAX_DRIVES];
	static struct work lists[MAX_DRIVES];
	bool in_turn = count > 1 && strcmp(arguments[1], "one-by-one") == 0;
	int first = in_turn ? 3 : 2;
	int drive_count = count - first;
	double start;

	if (drive_count < 1 || drive_count > MAX_DRIVES) {
		fputs("usage: bare_minimum [one-by-one] detach|attach DEVICE:CNTLID[,CNTLID...]...\n", stderr);
		return 2;
	}
	attaching = strcmp(arguments[first - 1], "attach") == 0;
	if (!in_turn)
		ring_open();
	for (int n = 0; n < drive_count; n++)
		drive_open(&drives[n], arguments[n + first]);
	start = now();
	for (int n = 0; n < drive_count; n++) {
		lists[n] = (struct work) { .drive = &drives[n], .page = drives[n].list };
		if (in_turn)
			drives[n].in_flight = IN_FLIGHT;	/* so that everything waits, for one_by_one */
		send_or_wait(&lists[n]);
		if (in_turn)
			one_by_one(&drives[n]);
	}
	while (outstanding) {
		ring_enter();
		ring_reap();
	}
	printf("{\"seconds\": %.9f, \"commands\": %" PRIu32 ", \"namespaces\": %" PRIu32 "}\n", now() - start, commands,
	       changed);
	return 0;
}
