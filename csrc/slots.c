/* SPDX-License-Identifier: Apache-2.0 */
/* Commands and the buffers lent to them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "internal.h"
#include "kernel_abi.h"

enum { SLOTS_PER_CHUNK = 64 };

/* Slots and their buffers; freed with the queue. */
struct chunk {
	struct chunk *next;
	uint8_t *buffers;
	struct slot slots[SLOTS_PER_CHUNK];
};

static const size_t CHUNK_BYTES = (size_t)SLOTS_PER_CHUNK * NVMEFENCE_PAGE;

void slot_list_push(struct slot_list *list, struct slot *slot)
{
	slot->next = NULL;
	if (list->tail)
		list->tail->next = slot;
	else
		list->head = slot;
	list->tail = slot;
}

struct slot *slot_list_pop(struct slot_list *list)
{
	struct slot *slot = list->head;

	if (!slot)
		return NULL;
	list->head = slot->next;
	if (!list->head)
		list->tail = NULL;
	slot->next = NULL;
	return slot;
}

void slot_free(struct slot *slot)
{
	slot->state = SLOT_FREE;
	slot->abandoned = false;
	slot->device = NULL;
	slot->next = slot->queue->free;
	slot->queue->free = slot;
}

/*
 * The buffers must not be shared with a child: after fork the first writer gets a copy, and the controller would
 * go on writing to the original.
 */
int slots_add(struct nvmefence_queue *queue)
{
	struct chunk *chunk = calloc(1, sizeof(*chunk));
	void *buffers;

	if (!chunk)
		return -ENOMEM;
	buffers = mmap(NULL, CHUNK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (buffers == MAP_FAILED || madvise(buffers, CHUNK_BYTES, MADV_DONTFORK) != 0) {
		if (buffers != MAP_FAILED)
			munmap(buffers, CHUNK_BYTES);
		free(chunk);
		return -ENOMEM;
	}
	chunk->buffers = buffers;
	for (size_t i = 0; i < SLOTS_PER_CHUNK; i++) {
		chunk->slots[i].queue = queue;
		chunk->slots[i].buffer = chunk->buffers + i * NVMEFENCE_PAGE;
		slot_free(&chunk->slots[i]);
	}
	chunk->next = queue->chunks;
	queue->chunks = chunk;
	return 0;
}

int slots_reserve(struct nvmefence_queue *queue, uint32_t count)
{
	uint32_t found = 0;

	for (struct slot *slot = queue->free; slot && found < count; slot = slot->next)
		found++;
	while (found < count) {
		int status = slots_add(queue);

		if (status < 0)
			return status;
		found += SLOTS_PER_CHUNK;
	}
	return 0;
}

uint32_t slot_list_drop_abandoned(struct slot_list *list)
{
	struct slot_list kept = {0};
	struct slot *slot;
	uint32_t dropped = 0;

	while ((slot = slot_list_pop(list))) {
		if (slot->abandoned) {
			slot_free(slot);
			dropped++;
		} else {
			slot_list_push(&kept, slot);
		}
	}
	*list = kept;
	return dropped;
}

void slots_abandon(struct nvmefence_queue *queue, const struct device *device)
{
	for (struct chunk *chunk = queue->chunks; chunk; chunk = chunk->next) {
		for (size_t i = 0; i < SLOTS_PER_CHUNK; i++) {
			if (chunk->slots[i].device == device)
				chunk->slots[i].abandoned = true;
		}
	}
}

uint32_t slots_abandon_batch(struct nvmefence_queue *queue, uint64_t batch, struct slot **slots, uint32_t max)
{
	uint32_t count = 0;

	for (struct chunk *chunk = queue->chunks; chunk; chunk = chunk->next) {
		for (size_t i = 0; i < SLOTS_PER_CHUNK && count < max; i++) {
			struct slot *slot = &chunk->slots[i];

			if (slot->batch != batch || slot->abandoned)
				continue;
			if (slot->state == SLOT_WAITING || slot->state == SLOT_STARTED) {
				slot->abandoned = true;
				slots[count++] = slot;
			}
		}
	}
	return count;
}

void slots_release(struct nvmefence_queue *queue)
{
	while (queue->chunks) {
		struct chunk *chunk = queue->chunks;

		queue->chunks = chunk->next;
		munmap(chunk->buffers, CHUNK_BYTES);
		free(chunk);
	}
}

void slot_passthrough(const struct slot *slot, struct nvme_passthrough *passthrough)
{
	const struct nvmefence_command *command = &slot->command;
	uint32_t words[16];

	memcpy(words, command->sqe, sizeof(words));
	memset(passthrough, 0, sizeof(*passthrough));
	passthrough->opcode = command->sqe[0];
	passthrough->flags = command->sqe[1];
	passthrough->nsid = words[1];
	passthrough->cdw2 = words[2];
	passthrough->cdw3 = words[3];
	passthrough->data_len = command->read_length + command->send_length;
	passthrough->addr = passthrough->data_len ? (uint64_t)(uintptr_t)slot->buffer : 0;
	passthrough->cdw10 = words[10];
	passthrough->cdw11 = words[11];
	passthrough->cdw12 = words[12];
	passthrough->cdw13 = words[13];
	passthrough->cdw14 = words[14];
	passthrough->cdw15 = words[15];
	passthrough->timeout_ms = command->timeout_ms;
}
