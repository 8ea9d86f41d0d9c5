/* Counts the system calls that change files below one folder, and makes one of them fail or kill the process.
 *
 * Loaded with LD_PRELOAD; tests/faults/disk.py sets it up through the disk_ functions. A process that is started
 * from here is not affected: it has counters of its own, and no folder.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum call { CREATE, WRITE, FSYNC, RENAME, REMOVE, CALLS };
static const char *const NAMES[CALLS] = {"create", "write", "fsync", "rename", "remove"};

static char root[PATH_MAX];
static int trace = -1;
static long counts[CALLS];
static int chosen = -1, number, deadly; /* number: an errno, or with deadly a signal */
static long at;
static int broken; /* the errno of a disk that stays full or read-only, 0 */

void disk_watch(const char *folder, int trace_fd) {
  snprintf(root, sizeof root, "%s", folder);
  trace = trace_fd;
  memset(counts, 0, sizeof counts);
  chosen = -1;
  broken = 0;
}

void disk_fail(int call, long which, int value, int is_signal) {
  chosen = call;
  at = which;
  number = value;
  deadly = is_signal;
}

long disk_count(int call) { return counts[call]; }

#define REAL(name) \
  static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int below(const char *path) {
  size_t length = strlen(root);
  return length && !strncmp(path, root, length) && (path[length] == '/' || !path[length]);
}

/* The absolute path of `path`, relative to the folder `at_fd`; links and dots stay as they are. */
static const char *absolute(int at_fd, const char *path, char *out) {
  if (path[0] == '/') {
    snprintf(out, PATH_MAX, "%s", path);
    return out;
  }
  char folder[PATH_MAX] = "", link[64];
  if (at_fd == AT_FDCWD) {
    if (!getcwd(folder, sizeof folder)) folder[0] = 0;
  } else {
    snprintf(link, sizeof link, "/proc/self/fd/%d", at_fd);
    ssize_t length = readlink(link, folder, sizeof folder - 1);
    folder[length < 0 ? 0 : length] = 0;
  }
  if ((size_t)snprintf(out, PATH_MAX, "%s/%s", folder, path) >= PATH_MAX) out[0] = 0;
  return out;
}

static const char *open_file(int fd, char *out) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, out, PATH_MAX - 1);
  out[length < 0 ? 0 : length] = 0;
  return out;
}

static void told(enum call call, const char *path, const char *other) {
  if (trace < 0) return;
  int saved = errno;
  char line[2 * PATH_MAX + 32];
  int length = snprintf(line, sizeof line, "%s\t%s\t%s\n", NAMES[call], path, other);
  REAL(write);
  if (real(trace, line, (size_t)length) < 0) abort();
  errno = saved;
}

/* What a full disk still does is remove and rename; one that turned read-only changes nothing. */
static int stays_broken(enum call call) {
  return broken == EROFS ? call != FSYNC : broken == ENOSPC && (call == CREATE || call == WRITE);
}

/* 1 where the call is to fail, with errno set. `torn` runs before a process is killed in a write. */
static int fails(enum call call, const char *path, const char *other, void (*torn)(void *), void *context) {
  if (!root[0] || !(below(path) || (other[0] && below(other)))) return 0;
  counts[call]++;
  int now = call == (enum call)chosen && counts[call] == at;
  if (now && deadly) {
    if (number == SIGKILL && torn) torn(context);
    kill(getpid(), number);
  } else if (now) {
    if (torn && number == ENOSPC) torn(context);
    broken = number;
    errno = number;
    return 1;
  }
  if (broken && stays_broken(call)) {
    errno = broken;
    return 1;
  }
  told(call, path, other);
  return 0;
}

/* ---- create ------------------------------------------------------------------------------------------------------ */

static int creates(int at_fd, const char *path, int flags) {
  struct stat found;
  if (flags & O_CREAT) return fstatat(at_fd, path, &found, AT_SYMLINK_NOFOLLOW) != 0;
  /* O_TMPFILE has no name that could stay behind. A truncation loses what was there. */
  return (flags & O_TRUNC) != 0;
}

#define OPEN(name, parameters, at_fd, arguments)                                      \
  int name parameters {                                                               \
    REAL(name);                                                                       \
    char out[PATH_MAX];                                                               \
    mode_t mode = 0;                                                                  \
    if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) {                                           \
      va_list more;                                                                   \
      va_start(more, flags);                                                          \
      mode = va_arg(more, mode_t);                                                    \
      va_end(more);                                                                   \
    }                                                                                 \
    if (root[0] && creates(at_fd, path, flags) && fails(CREATE, absolute(at_fd, path, out), "", 0, 0)) return -1; \
    return real arguments;                                                            \
  }

OPEN(open, (const char *path, int flags, ...), AT_FDCWD, (path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, (path, flags, mode))
OPEN(openat, (int folder, const char *path, int flags, ...), folder, (folder, path, flags, mode))
OPEN(openat64, (int folder, const char *path, int flags, ...), folder, (folder, path, flags, mode))

int mkdir(const char *path, mode_t mode) {
  REAL(mkdir);
  char out[PATH_MAX];
  return fails(CREATE, absolute(AT_FDCWD, path, out), "", 0, 0) ? -1 : real(path, mode);
}

/* ---- write and fsync --------------------------------------------------------------------------------------------- */

struct part {
  int fd;
  const void *data;
  size_t size;
};

static void half(void *context) {
  struct part *part = context;
  REAL(write);
  if (real(part->fd, part->data, part->size / 2) < 0) return;
}

ssize_t write(int fd, const void *data, size_t size) {
  REAL(write);
  char out[PATH_MAX];
  struct part part = {fd, data, size};
  if (root[0] && fails(WRITE, open_file(fd, out), "", half, &part)) return -1;
  return real(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  REAL(writev);
  char out[PATH_MAX];
  if (root[0] && fails(WRITE, open_file(fd, out), "", 0, 0)) return -1;
  return real(fd, parts, count);
}

int fsync(int fd) {
  REAL(fsync);
  char out[PATH_MAX];
  if (root[0] && fails(FSYNC, open_file(fd, out), "", 0, 0)) return -1;
  return real(fd);
}

/* ---- rename and remove ------------------------------------------------------------------------------------------- */

static int renaming_fails(int from_fd, const char *from, int to_fd, const char *to) {
  char one[PATH_MAX], other[PATH_MAX];
  return root[0] && fails(RENAME, absolute(from_fd, from, one), absolute(to_fd, to, other), 0, 0);
}

int rename(const char *from, const char *to) {
  REAL(rename);
  return renaming_fails(AT_FDCWD, from, AT_FDCWD, to) ? -1 : real(from, to);
}

int renameat(int from_fd, const char *from, int to_fd, const char *to) {
  REAL(renameat);
  return renaming_fails(from_fd, from, to_fd, to) ? -1 : real(from_fd, from, to_fd, to);
}

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned int flags) {
  REAL(renameat2);
  return renaming_fails(from_fd, from, to_fd, to) ? -1 : real(from_fd, from, to_fd, to, flags);
}

int unlink(const char *path) {
  REAL(unlink);
  char out[PATH_MAX];
  return fails(REMOVE, absolute(AT_FDCWD, path, out), "", 0, 0) ? -1 : real(path);
}

int unlinkat(int folder, const char *path, int flags) {
  REAL(unlinkat);
  char out[PATH_MAX];
  return fails(REMOVE, absolute(folder, path, out), "", 0, 0) ? -1 : real(folder, path, flags);
}

int rmdir(const char *path) {
  REAL(rmdir);
  char out[PATH_MAX];
  return fails(REMOVE, absolute(AT_FDCWD, path, out), "", 0, 0) ? -1 : real(path);
}
