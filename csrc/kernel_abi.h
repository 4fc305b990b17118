/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The part of Linux's interface the queue uses, written out because the headers of distributions lag behind the
 * kernels they run on (RHEL 8 has neither URING_CMD nor nvme_uring_cmd). Sources: include/uapi/linux/io_uring.h and
 * nvme_ioctl.h of Linux 6.1; tests compare sizes and offsets with the installed headers.
 */
#ifndef NVMEFENCE_KERNEL_ABI_H
#define NVMEFENCE_KERNEL_ABI_H

#include <stdint.h>
#include <sys/ioctl.h>

enum {
	SYS_IO_URING_SETUP = 425,	/* the same number on every architecture */
	SYS_IO_URING_ENTER = 426,
	SYS_IO_URING_REGISTER = 427,
};

#define RING_SETUP_CQSIZE (UINT32_C(1) << 3)
#define RING_SETUP_CLAMP (UINT32_C(1) << 4)
#define RING_SETUP_SUBMIT_ALL (UINT32_C(1) << 7)
#define RING_SETUP_SQE128 (UINT32_C(1) << 10)
#define RING_SETUP_CQE32 (UINT32_C(1) << 11)
#define RING_FEAT_SINGLE_MMAP (UINT32_C(1) << 0)
#define RING_FEAT_NODROP (UINT32_C(1) << 1)
#define RING_OFF_RINGS 0
#define RING_OFF_SQES 0x10000000
#define RING_REGISTER_PROBE 8
#define RING_OP_URING_CMD 46
#define RING_OP_SUPPORTED 1

struct ring_submission_offsets {
	uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, reserved;
	uint64_t user_addr;
};

struct ring_completion_offsets {
	uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags, reserved;
	uint64_t user_addr;
};

struct ring_params {
	uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd, reserved[3];
	struct ring_submission_offsets sq;
	struct ring_completion_offsets cq;
};

struct ring_probe_op {
	uint8_t op, reserved;
	uint16_t flags;
	uint32_t reserved2;
};

struct ring_probe {
	uint8_t last_op, ops_len;
	uint16_t reserved;
	uint32_t reserved2[3];
	struct ring_probe_op ops[256];
};

/* struct nvme_uring_cmd, and struct nvme_admin_cmd: they differ in the meaning of the last field. */
struct nvme_passthrough {
	uint8_t opcode, flags;
	uint16_t reserved;
	uint32_t nsid, cdw2, cdw3;
	uint64_t metadata, addr;
	uint32_t metadata_len, data_len, cdw10, cdw11, cdw12, cdw13, cdw14, cdw15, timeout_ms;
	uint32_t result;	/* ioctl only; reserved in the ring, whose result is big_cqe[0] */
};

struct ring_sqe {	/* struct io_uring_sqe with IORING_SETUP_SQE128 */
	uint8_t opcode, flags;
	uint16_t ioprio;
	int32_t fd;
	uint32_t cmd_op, reserved;
	uint64_t addr;
	uint32_t len, uring_cmd_flags;
	uint64_t user_data;
	uint16_t buf_index, personality;
	int32_t file_index;
	struct nvme_passthrough cmd;
	uint8_t reserved2[8];
};

struct ring_cqe {	/* struct io_uring_cqe with IORING_SETUP_CQE32 */
	uint64_t user_data;
	int32_t res;
	uint32_t flags;
	uint64_t big_cqe[2];
};

#define PASSTHROUGH_IOCTL _IOWR('N', 0x41, struct nvme_passthrough)	/* NVME_IOCTL_ADMIN_CMD */
#define PASSTHROUGH_RING _IOWR('N', 0x82, struct nvme_passthrough)	/* NVME_URING_CMD_ADMIN */

#endif
