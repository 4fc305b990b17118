/* SPDX-License-Identifier: Apache-2.0 */
/* Handles, their descriptors, and the character devices behind them. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"

enum {
	MAX_DEVICES = 4096,	/* a handle is a serial number times this, plus an index */
	MAX_SERIAL = 0x7ffff,
};

/* The node of a character device; made if there is none. */
static struct node *node_get(struct nvmefence_queue *queue, dev_t number)
{
	struct node *node = queue->nodes;

	while (node && node->number != number)
		node = node->next;
	if (node)
		return node;
	node = calloc(1, sizeof(*node));
	if (!node)
		return NULL;
	node->number = number;
	node->path = queue->has_ring ? PATH_UNDECIDED : PATH_THREAD;
	if (queue->has_ring && !queue->fallback)
		node->path = PATH_RING;
	node->next = queue->nodes;
	queue->nodes = node;
	return node;
}

static void node_put(struct nvmefence_queue *queue, struct node *node)
{
	struct node **link = &queue->nodes;

	if (--node->devices > 0)
		return;
	while (*link != node)
		link = &(*link)->next;
	*link = node->next;
	free(node);
}

void device_settle(struct nvmefence_queue *queue, struct device *device)
{
	if (!device->released || device->in_flight > 0)
		return;
	close(device->fd);
	node_put(queue, device->node);
	free(device);
}

/* An index for one more device; the table grows. */
static int device_index(struct nvmefence_queue *queue)
{
	uint32_t index = 0;
	uint32_t count = queue->device_count ? queue->device_count * 2 : 32;
	struct device **devices;

	while (index < queue->device_count && queue->devices[index])
		index++;
	if (index < queue->device_count)
		return (int)index;
	if (index >= MAX_DEVICES)
		return -EMFILE;
	devices = realloc(queue->devices, count * sizeof(struct device *));
	if (!devices)
		return -ENOMEM;
	memset(devices + queue->device_count, 0, (count - queue->device_count) * sizeof(struct device *));
	queue->devices = devices;
	queue->device_count = count;
	return (int)index;
}

static int device_add(struct nvmefence_queue *queue, int fd, dev_t number)
{
	struct device *device;
	int index = device_index(queue);

	if (index < 0)
		return index;
	device = calloc(1, sizeof(*device));
	if (!device)
		return -ENOMEM;
	device->node = node_get(queue, number);
	if (!device->node) {
		free(device);
		return -ENOMEM;
	}
	device->node->devices++;
	device->fd = fd;
	queue->opened = queue->opened % MAX_SERIAL + 1;
	device->handle = (int)(queue->opened * MAX_DEVICES + (uint32_t)index);
	queue->devices[index] = device;
	return device->handle;
}

int nvmefence_device_open(struct nvmefence_queue *queue, const char *path)
{
	struct stat status;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	int handle;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &status) != 0 || !S_ISCHR(status.st_mode)) {
		close(fd);
		return -ENODEV;
	}
	pthread_mutex_lock(&nvmefence_lock);
	handle = queue_is_foreign(queue) ? -ECHILD : device_add(queue, fd, status.st_rdev);
	pthread_mutex_unlock(&nvmefence_lock);
	if (handle < 0)
		close(fd);
	return handle;
}

struct device *device_find(const struct nvmefence_queue *queue, int handle)
{
	uint32_t index = (uint32_t)handle % MAX_DEVICES;

	if (handle < 0 || index >= queue->device_count || !queue->devices[index])
		return NULL;
	return queue->devices[index]->handle == handle ? queue->devices[index] : NULL;
}

void device_release(struct nvmefence_queue *queue, struct device *device)
{
	queue->devices[(uint32_t)device->handle % MAX_DEVICES] = NULL;
	slots_abandon(queue, device);
	queue->waiting -= slot_list_drop_abandoned(&device->node->waiting);
	slot_list_drop_abandoned(&queue->done);
	device->released = true;
	device_settle(queue, device);
}

int nvmefence_device_release(struct nvmefence_queue *queue, int handle)
{
	struct device *device;
	int status = 0;

	pthread_mutex_lock(&nvmefence_lock);
	if (queue_is_foreign(queue))
		status = -ECHILD;
	else if (!(device = device_find(queue, handle)))
		status = -EBADF;
	else
		device_release(queue, device);
	pthread_mutex_unlock(&nvmefence_lock);
	return status;
}

int nvmefence_device_backend(struct nvmefence_queue *queue, int handle)
{
	const struct device *device;
	int backend = -ECHILD;

	pthread_mutex_lock(&nvmefence_lock);
	if (!queue_is_foreign(queue)) {
		device = device_find(queue, handle);
		backend = -EBADF;
		if (device)
			backend = device->node->path == PATH_THREAD ? NVMEFENCE_IOCTL : NVMEFENCE_IO_URING;
	}
	pthread_mutex_unlock(&nvmefence_lock);
	return backend;
}
