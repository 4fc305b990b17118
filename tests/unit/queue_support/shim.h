/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stands between the queue and the kernel: answers the passthrough ioctl as the command itself asks for, and turns
 * io_uring passthrough commands into reads from a pipe, so that a real kernel holds them as long as a test likes.
 *
 * Any command with opcode SHIM_OPCODE is ours:
 *   cdw10  what to do (enum shim_act)
 *   cdw11  SHIM_LATE: milliseconds; SHIM_HANG: which gate to wait for
 *   cdw12  the byte the data buffer is filled with; SHIM_KEEP leaves it alone, SHIM_SUM returns its Adler-32
 *   cdw13  the result
 *   cdw14  the status; negative: -errno
 *   cdw15  written to the journal when it reaches the "kernel"
 */
#ifndef SHIM_H
#define SHIM_H

#include <stdint.h>

enum { SHIM_OPCODE = 0xc2, SHIM_KEEP = 0x100, SHIM_SUM = 0x200, SHIM_GATES = 64, SHIM_JOURNAL = 4096 };
enum shim_act { SHIM_NOW, SHIM_LATE, SHIM_HANG };

/* Let go of what hangs at a gate, now and later. */
void shim_open_gate(uint32_t gate);
void shim_close_gate(uint32_t gate);

/* Bytes for what hangs at a gate in a ring: data, and by their number the (positive) status. */
void shim_feed(uint32_t gate, int value, uint32_t count);

/* Values of cdw15 in the order in which commands reached the kernel, and how many. */
uint32_t shim_journal(uint32_t *values, uint32_t max);

/* Most ioctls under way at once on a device number (st_rdev), and calls whose descriptor changed under them. */
uint32_t shim_peak(uint64_t device);
uint32_t shim_faults(void);

/* Calls of io_uring_enter so far. */
uint32_t shim_enters(void);

/* Let the next `count` calls of io_uring_enter, or all of io_uring_setup from now on, fail; or pthread_create. */
void shim_fail_enter(int error, int count);
void shim_fail_setup(int error);
void shim_fail_threads(int fail);

#endif
