/* What a test does to the system calls of a process: LD_PRELOAD this, with CHAOS_CONTROL naming a shared file.
 *
 * The file is a `struct control`, mapped by the test as well, which changes it while the process runs:
 *   - the wall clock is shifted;
 *   - from the n-th call on a path under `prefix` on, so many calls fail with `error`, or take `delay_ns`;
 *   - the n-th of a kind only: `kinds`;
 *   - descriptors that were opened before `stale_before` fail with ESTALE, as after a change on an NFS server;
 *   - a directory that is open lists what was there when it was opened, as an NFS client may from its cache;
 *   - inotify hears nothing, as on NFS;
 *   - the removal of a file leaves a .nfs file behind, as on NFS while somebody has it open;
 *   - what is done on paths under `prefix` is written down, in the order in which it was done.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define TRACE_SIZE (1 << 20)
#define FDS 1024

struct control {
	_Atomic int64_t clock_ns;     /* added to CLOCK_REALTIME */
	_Atomic int64_t calls;        /* matching calls so far */
	_Atomic int64_t fail_at;      /* the first that fails, counted from 1; 0: none */
	_Atomic int64_t fail_calls;   /* how many fail from there on */
	_Atomic int64_t error;        /* errno; 0: they only take `delay_ns` */
	_Atomic int64_t delay_ns;
	_Atomic int64_t kinds;        /* bits of enum kind; others neither count nor fail */
	_Atomic int64_t failed;       /* how many have failed */
	_Atomic int64_t generation;   /* of directories and files that are opened now */
	_Atomic int64_t stale_before; /* generation; what was opened earlier is stale */
	_Atomic int64_t cached;       /* 1: listings are those of the opening */
	_Atomic int64_t deaf;         /* 1: inotify hears nothing */
	_Atomic int64_t silly;        /* 1: a removed file stays as .nfsN */
	_Atomic int64_t tracing;      /* 1: calls are written down */
	_Atomic int64_t traced;       /* bytes of `trace` in use */
	char prefix[256];
	char trace[TRACE_SIZE];
};

enum kind { OPEN = 1, WRITE = 2, SYNC = 4, RENAME = 8, UNLINK = 16, MKDIR = 32, STAT = 64, READ = 128, LIST = 256 };

static struct control *control;
static _Atomic int64_t generation_of[FDS];
static struct timespec opened_at[FDS];

static int real_clock(clockid_t id, struct timespec *now)
{
	return (int)syscall(SYS_clock_gettime, id, now);
}

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("CHAOS_CONTROL");
	int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC) : -1;

	if (fd < 0)
		return;
	void *map = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	syscall(SYS_close, fd);
	if (map != MAP_FAILED)
		control = map;
}

static void *next(const char *name)
{
	return dlsym(RTLD_NEXT, name);
}

#define REAL(type, name, ...) \
	static type (*real)(__VA_ARGS__); \
	if (!real) \
		real = (type (*)(__VA_ARGS__))next(name)

/* The path that a descriptor and a name lead to, as far as the kernel tells without a look at the name itself. */
static int path_of(int dirfd, const char *name, char *path)
{
	char link[64];
	ssize_t length;

	if (name && name[0] == '/') {
		snprintf(path, PATH_MAX, "%s", name);
		return 1;
	}
	if (dirfd == AT_FDCWD)
		snprintf(link, sizeof(link), "/proc/self/cwd");
	else
		snprintf(link, sizeof(link), "/proc/self/fd/%d", dirfd);
	length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
	if (length <= 0)
		return 0;
	path[length] = 0;
	if (name && name[0])
		snprintf(path + length, PATH_MAX - (size_t)length, "/%s", name);
	return 1;
}

static int ours(const char *path)
{
	return control->prefix[0] && !strncmp(path, control->prefix, strlen(control->prefix));
}

static void note(const char *what, const char *path, long result, int fd)
{
	char line[PATH_MAX + 128];
	int length;
	int64_t at;

	if (!control->tracing)
		return;
	length = snprintf(line, sizeof(line), "%s\t%ld\t%d\t%s\n", what, result, fd, path);
	at = atomic_fetch_add(&control->traced, length);
	if (at + length < TRACE_SIZE)
		memcpy(control->trace + at, line, (size_t)length);
}

/* Whether this call is to fail: then errno is set. */
static int fails(enum kind kind, int fd, const char *path)
{
	int64_t number, first;

	if (!control || !ours(path))
		return 0;
	if (fd >= 0 && fd < FDS && generation_of[fd] < control->stale_before && generation_of[fd]) {
		control->failed++;
		errno = ESTALE;
		return 1;
	}
	if (!(control->kinds & kind))
		return 0;
	number = atomic_fetch_add(&control->calls, 1) + 1;
	first = control->fail_at;
	if (!first || number < first || number >= first + control->fail_calls)
		return 0;
	control->failed++;
	if (control->delay_ns) {
		struct timespec pause = { control->delay_ns / 1000000000, control->delay_ns % 1000000000 };
		syscall(SYS_nanosleep, &pause, NULL);
	}
	if (!control->error)
		return 0;
	errno = (int)control->error;
	return 1;
}

static void opened(int fd)
{
	if (control && fd >= 0 && fd < FDS) {
		generation_of[fd] = control->generation;
		/* As coarse as the kernel's stamps of files. */
		real_clock(CLOCK_REALTIME_COARSE, &opened_at[fd]);
	}
}

static int open_at(const char *real_name, int dirfd, const char *name, int flags, mode_t mode)
{
	char path[PATH_MAX];
	int fd;
	REAL(int, "openat64", int, const char *, int, ...);

	(void)real_name;
	if (control && path_of(dirfd, name, path)) {
		if (fails(OPEN, dirfd, path)) {
			note("open", path, -1, -1);
			return -1;
		}
		fd = real(dirfd, name, flags, mode);
		opened(fd);
		if (ours(path))
			note("open", path, fd, fd);
		return fd;
	}
	return real(dirfd, name, flags, mode);
}

static mode_t mode_of(int flags, va_list more)
{
	return flags & (O_CREAT | O_TMPFILE) ? (mode_t)va_arg(more, unsigned) : 0;
}

#define OPENS(function, ...) \
	va_list more; \
	va_start(more, flags); \
	mode_t mode = mode_of(flags, more); \
	va_end(more); \
	return open_at(#function, __VA_ARGS__, flags, mode)

int open(const char *name, int flags, ...) { OPENS(open, AT_FDCWD, name); }
int open64(const char *name, int flags, ...) { OPENS(open64, AT_FDCWD, name); }
int openat(int dirfd, const char *name, int flags, ...) { OPENS(openat, dirfd, name); }
int openat64(int dirfd, const char *name, int flags, ...) { OPENS(openat64, dirfd, name); }

#define ON_FD(kind, what, type, name, signature, call) \
	type name signature \
	{ \
		char path[PATH_MAX]; \
		type result; \
		static type(*real) signature; \
		if (!real) \
			real = (type(*) signature)next(#name); \
		if (!control || !path_of(fd, NULL, path) || !ours(path)) \
			return real call; \
		if (fails(kind, fd, path)) { \
			note(what, path, -1, fd); \
			return -1; \
		} \
		result = real call; \
		note(what, path, (long)result, fd); \
		return result; \
	}

ON_FD(WRITE, "write", ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size))
ON_FD(WRITE, "write", ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
ON_FD(WRITE, "write", ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
ON_FD(WRITE, "truncate", int, ftruncate, (int fd, off_t size), (fd, size))
ON_FD(WRITE, "truncate", int, ftruncate64, (int fd, off64_t size), (fd, size))
ON_FD(WRITE, "chmod", int, fchmod, (int fd, mode_t mode), (fd, mode))
ON_FD(SYNC, "sync", int, fdatasync, (int fd), (fd))
ON_FD(READ, "read", ssize_t, read, (int fd, void *data, size_t size), (fd, data, size))

static int rename_at(int from, const char *name, int to, const char *new_name)
{
	char path[PATH_MAX], target[PATH_MAX];
	int result;
	REAL(int, "renameat", int, const char *, int, const char *);

	if (!control || !path_of(from, name, path) || !path_of(to, new_name, target) || !ours(target))
		return real(from, name, to, new_name);
	if (fails(RENAME, from, path)) {
		note("rename", target, -1, -1);
		return -1;
	}
	result = real(from, name, to, new_name);
	note("rename", target, result, -1);
	return result;
}

int rename(const char *name, const char *new_name) { return rename_at(AT_FDCWD, name, AT_FDCWD, new_name); }
int renameat(int from, const char *name, int to, const char *new_name) { return rename_at(from, name, to, new_name); }

static int remove_at(int dirfd, const char *name, int flags)
{
	static _Atomic int64_t number;
	char path[PATH_MAX], hidden[64];
	int result;
	REAL(int, "unlinkat", int, const char *, int);

	if (!control || !path_of(dirfd, name, path) || !ours(path))
		return real(dirfd, name, flags);
	if (fails(UNLINK, dirfd, path)) {
		note("unlink", path, -1, -1);
		return -1;
	}
	if (control->silly && !flags) {
		REAL(int, "renameat", int, const char *, int, const char *);
		char *slash = strrchr(path, '/');
		snprintf(hidden, sizeof(hidden), "/.nfs%024llx", (unsigned long long)++number);
		char place[PATH_MAX];
		snprintf(place, sizeof(place), "%.*s%s", (int)(slash - path), path, hidden);
		return real(dirfd, name, AT_FDCWD, place);
	}
	result = real(dirfd, name, flags);
	note("unlink", path, result, -1);
	return result;
}

int unlink(const char *name) { return remove_at(AT_FDCWD, name, 0); }
int unlinkat(int dirfd, const char *name, int flags) { return remove_at(dirfd, name, flags); }

static int make_at(int dirfd, const char *name, mode_t mode)
{
	char path[PATH_MAX];
	REAL(int, "mkdirat", int, const char *, mode_t);

	if (control && path_of(dirfd, name, path) && fails(MKDIR, dirfd, path))
		return -1;
	return real(dirfd, name, mode);
}

int mkdir(const char *name, mode_t mode) { return make_at(AT_FDCWD, name, mode); }
int mkdirat(int dirfd, const char *name, mode_t mode) { return make_at(dirfd, name, mode); }

#define STATS(name, type, signature, dirfd, file, call) \
	int name signature \
	{ \
		char path[PATH_MAX]; \
		static int(*real) signature; \
		if (!real) \
			real = (int(*) signature)next(#name); \
		if (control && path_of(dirfd, file, path) && fails(STAT, dirfd, path)) \
			return -1; \
		return real call; \
	}

STATS(stat, struct stat, (const char *name, struct stat *found), AT_FDCWD, name, (name, found))
STATS(stat64, struct stat64, (const char *name, struct stat64 *found), AT_FDCWD, name, (name, found))
STATS(lstat, struct stat, (const char *name, struct stat *found), AT_FDCWD, name, (name, found))
STATS(lstat64, struct stat64, (const char *name, struct stat64 *found), AT_FDCWD, name, (name, found))
STATS(fstat, struct stat, (int fd, struct stat *found), fd, NULL, (fd, found))
STATS(fstat64, struct stat64, (int fd, struct stat64 *found), fd, NULL, (fd, found))
STATS(fstatat, struct stat, (int dirfd, const char *name, struct stat *found, int flags), dirfd, name,
      (dirfd, name, found, flags))
STATS(fstatat64, struct stat64, (int dirfd, const char *name, struct stat64 *found, int flags), dirfd, name,
      (dirfd, name, found, flags))

/* A duplicate is as old as what it was made from. */
static int duplicate(int fd, int copy)
{
	if (fd >= 0 && fd < FDS && copy >= 0 && copy < FDS) {
		generation_of[copy] = generation_of[fd];
		opened_at[copy] = opened_at[fd];
	}
	return copy;
}

static int control_fd(int fd, int command, void *argument)
{
	REAL(int, "fcntl64", int, int, ...);
	int result = real(fd, command, argument);

	return command == F_DUPFD_CLOEXEC || command == F_DUPFD ? duplicate(fd, result) : result;
}

int fcntl(int fd, int command, ...)
{
	va_list more;
	va_start(more, command);
	void *argument = va_arg(more, void *);
	va_end(more);
	return control_fd(fd, command, argument);
}

int fcntl64(int fd, int command, ...)
{
	va_list more;
	va_start(more, command);
	void *argument = va_arg(more, void *);
	va_end(more);
	return control_fd(fd, command, argument);
}

/* Whether an entry came into the directory after it was opened, so that a cached listing lacks it. */
static int too_young(int fd, const char *name)
{
	struct stat64 found;
	static int (*real)(int, const char *, struct stat64 *, int);
	if (!real)
		real = (int (*)(int, const char *, struct stat64 *, int))next("fstatat64");

	if (name[0] == '.' || real(fd, name, &found, AT_SYMLINK_NOFOLLOW))
		return 0;
	if (found.st_ctim.tv_sec != opened_at[fd].tv_sec)
		return found.st_ctim.tv_sec > opened_at[fd].tv_sec;
	return found.st_ctim.tv_nsec > opened_at[fd].tv_nsec;
}

static struct dirent64 *list(DIR *directory)
{
	char path[PATH_MAX];
	struct dirent64 *entry;
	int fd = dirfd(directory);
	REAL(struct dirent64 *, "readdir64", DIR *);

	if (!control || !path_of(fd, NULL, path) || !ours(path))
		return real(directory);
	if (fails(LIST, fd, path))
		return NULL;
	do
		entry = real(directory);
	while (entry && control->cached && fd < FDS && too_young(fd, entry->d_name));
	return entry;
}

struct dirent64 *readdir64(DIR *directory) { return list(directory); }
struct dirent *readdir(DIR *directory) { return (struct dirent *)list(directory); }

int inotify_add_watch(int fd, const char *name, uint32_t mask)
{
	REAL(int, "inotify_add_watch", int, const char *, uint32_t);

	return real(fd, name, control && control->deaf ? IN_DELETE_SELF : mask);
}

/* The clock. */
static void shift(struct timespec *now)
{
	int64_t ns = now->tv_nsec + control->clock_ns % 1000000000;

	now->tv_sec += control->clock_ns / 1000000000 + (ns >= 1000000000) - (ns < 0);
	now->tv_nsec = ns + (ns < 0 ? 1000000000 : 0) - (ns >= 1000000000 ? 1000000000 : 0);
}

int clock_gettime(clockid_t id, struct timespec *now)
{
	int result = real_clock(id, now);

	if (!result && control && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
		shift(now);
	return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec found;
	int result = clock_gettime(CLOCK_REALTIME, &found);

	(void)zone;
	now->tv_sec = found.tv_sec;
	now->tv_usec = found.tv_nsec / 1000;
	return result;
}

time_t time(time_t *where)
{
	struct timespec found;

	clock_gettime(CLOCK_REALTIME, &found);
	if (where)
		*where = found.tv_sec;
	return found.tv_sec;
}

/* What is stamped "now" is stamped by the shifted clock; and so is what is written, once that is made durable. */
int futimens(int fd, const struct timespec times[2])
{
	struct timespec both[2];
	REAL(int, "futimens", int, const struct timespec *);

	if (times || !control || !control->clock_ns)
		return real(fd, times);
	clock_gettime(CLOCK_REALTIME, &both[0]);
	both[1] = both[0];
	return real(fd, both);
}

int fsync(int fd)
{
	char path[PATH_MAX];
	struct stat64 found;
	int result;
	REAL(int, "fsync", int);

	if (!control || !path_of(fd, NULL, path) || !ours(path))
		return real(fd);
	if (fails(SYNC, fd, path)) {
		note("sync", path, -1, fd);
		return -1;
	}
	result = real(fd);
	if (control->clock_ns && !syscall(SYS_fstat, fd, &found) && S_ISREG(found.st_mode))
		futimens(fd, NULL);
	note("sync", path, result, fd);
	return result;
}
