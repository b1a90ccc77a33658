/* Notes down, in order, what a process does to the files of some directories, so that a test can tell afterwards what a
 * power cut would have left of it (power/mod.rs). Preloaded into the daemon by LD_PRELOAD; Linux, 64 bits.
 *
 * Each change is made first and noted then, both under one lock: what is not in the notes has not returned to the
 * program, so nobody outside can have relied on it. The notes lie outside of those directories and survive the cut.
 *
 *   POWER_DIRECTORY  what lies below it is noted
 *   POWER_NOTES      where the notes go
 *   POWER_ENDS_AT    the power fails before this noted change, counted from 1; 0 or absent: not by itself
 *
 * Not noted: mapped memory. SQLite maps only the index of its write-ahead log (-shm), which no power cut leaves.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *directory;
static int notes = -1;
static unsigned long left;

/* The files and directories below the directory that this process has opened. */
static struct { dev_t device; ino_t inode; } watched[1024];
static int watching;

static int (*real_open)(const char *, int, ...);
static int (*real_openat)(int, const char *, int, ...);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static int (*real_ftruncate)(int, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_unlink)(const char *);
static int (*real_unlinkat)(int, const char *, int);
static int (*real_rename)(const char *, const char *);

__attribute__((constructor)) static void begin(void) {
  real_open = dlsym(RTLD_NEXT, "open");
  real_openat = dlsym(RTLD_NEXT, "openat");
  real_write = dlsym(RTLD_NEXT, "write");
  real_pwrite = dlsym(RTLD_NEXT, "pwrite");
  real_writev = dlsym(RTLD_NEXT, "writev");
  real_ftruncate = dlsym(RTLD_NEXT, "ftruncate");
  real_fsync = dlsym(RTLD_NEXT, "fsync");
  real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
  real_unlink = dlsym(RTLD_NEXT, "unlink");
  real_unlinkat = dlsym(RTLD_NEXT, "unlinkat");
  real_rename = dlsym(RTLD_NEXT, "rename");
  const char *path = getenv("POWER_NOTES"), *ends = getenv("POWER_ENDS_AT");
  directory = getenv("POWER_DIRECTORY");
  left = ends ? strtoul(ends, NULL, 10) : 0;
  if (path && directory)
    notes = real_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (notes < 0) {
    static const char words[] = "power: nothing can be noted\n";
    if (real_write(2, words, sizeof words - 1) < 0) abort();
    _exit(70);
  }
}

/* One note: what, to which file, where, and how many bytes follow. Read by power/mod.rs. */
struct note { uint64_t what, inode, at, length; };

static void note(char what, ino_t inode, off_t at, const void *bytes, size_t length) {
  struct note head = {(uint64_t)what, inode, (uint64_t)at, length};
  struct iovec parts[] = {{&head, sizeof head}, {(void *)bytes, length}};
  if (real_writev(notes, parts, 2) != (ssize_t)(sizeof head + length)) abort();
}

/* Before every change: the power may fail now. */
static void tick(void) {
  if (left && --left == 0) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
  }
}

static int find(const struct stat *found) {
  for (int i = 0; i < watching; i++)
    if (watched[i].inode == found->st_ino && watched[i].device == found->st_dev) return i;
  return -1;
}

/* Whether a descriptor leads to something that is watched. */
static int is_watched(int fd, struct stat *found) {
  int before = errno, known = fstat(fd, found) == 0 && (S_ISREG(found->st_mode) || S_ISDIR(found->st_mode));
  errno = before;
  return known && find(found) >= 0;
}

/* Whether a path is the directory or below it, and not the index of a write-ahead log. */
static int is_below(const char *path) {
  size_t length = strlen(directory), all = strlen(path);
  if (all > 4 && strcmp(path + all - 4, "-shm") == 0) return 0;
  return strncmp(path, directory, length) == 0 && (path[length] == '/' || path[length] == 0);
}

/* A descriptor was opened: from now on its file is watched, or known not to be. */
static void opened(int fd, int is_new, int flags) {
  char link[64], path[PATH_MAX];
  struct stat found;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0 || fstat(fd, &found) != 0) return;
  path[length] = 0;
  int i = find(&found);
  if (!is_below(path)) {
    if (i >= 0) watched[i] = watched[--watching];
    return;
  }
  if (i < 0) {
    if (watching == sizeof watched / sizeof *watched) abort();
    watched[watching].device = found.st_dev;
    watched[watching++].inode = found.st_ino;
  }
  if (is_new) note('c', found.st_ino, 0, path, length);
  else if (flags & O_TRUNC) note('t', found.st_ino, 0, NULL, 0);
}

static int open_noting(int at, const char *path, int flags, mode_t mode) {
  pthread_mutex_lock(&lock);
  int before = errno;
  int is_new = (flags & O_CREAT) && faccessat(at, path, F_OK, AT_SYMLINK_NOFOLLOW) != 0;
  errno = before;
  if (is_new && path[0] == '/' && is_below(path)) tick();
  int fd = real_openat(at, path, flags, mode);
  before = errno;
  if (fd >= 0) opened(fd, is_new, flags);
  pthread_mutex_unlock(&lock);
  errno = before;
  return fd;
}

#define MODE(flags, mode) \
  mode_t mode = 0; \
  if ((flags) & (O_CREAT | __O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }

int open(const char *path, int flags, ...) { MODE(flags, mode) return open_noting(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags, mode) return open_noting(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags, mode) return open_noting(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags, mode) return open_noting(at, path, flags, mode); }

ssize_t write(int fd, const void *bytes, size_t length) {
  struct stat found;
  pthread_mutex_lock(&lock);
  if (!is_watched(fd, &found)) {
    /* A pipe may be full: nobody else waits for it. */
    pthread_mutex_unlock(&lock);
    return real_write(fd, bytes, length);
  }
  tick();
  ssize_t done = real_write(fd, bytes, length);
  int before = errno;
  if (done > 0) note('w', found.st_ino, lseek(fd, 0, SEEK_CUR) - done, bytes, done);
  pthread_mutex_unlock(&lock);
  errno = before;
  return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  struct stat found;
  pthread_mutex_lock(&lock);
  int ours = is_watched(fd, &found);
  pthread_mutex_unlock(&lock);
  if (!ours) return real_writev(fd, parts, count);
  ssize_t done = 0;
  for (int i = 0; i < count; i++) {
    if (parts[i].iov_len == 0) continue;
    ssize_t wrote = write(fd, parts[i].iov_base, parts[i].iov_len);
    if (wrote < 0) return done ? done : wrote;
    done += wrote;
    if ((size_t)wrote < parts[i].iov_len) break;
  }
  return done;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) {
  struct stat found;
  pthread_mutex_lock(&lock);
  int ours = is_watched(fd, &found);
  if (ours) tick();
  ssize_t done = real_pwrite(fd, bytes, length, at);
  int before = errno;
  if (ours && done > 0) note('w', found.st_ino, at, bytes, done);
  pthread_mutex_unlock(&lock);
  errno = before;
  return done;
}
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) { return pwrite(fd, bytes, length, at); }

int ftruncate(int fd, off_t length) {
  struct stat found;
  pthread_mutex_lock(&lock);
  int ours = is_watched(fd, &found);
  if (ours) tick();
  int failed = real_ftruncate(fd, length), before = errno;
  if (ours && !failed) note('t', found.st_ino, length, NULL, 0);
  pthread_mutex_unlock(&lock);
  errno = before;
  return failed;
}
int ftruncate64(int fd, off64_t length) { return ftruncate(fd, length); }

static int sync_noting(int fd, int (*sync)(int)) {
  struct stat found;
  pthread_mutex_lock(&lock);
  int ours = is_watched(fd, &found);
  if (ours) tick();
  /* Only the notes say what is durable: the real disk need not be waited for. */
  int failed = ours ? 0 : sync(fd), before = errno;
  if (ours) note('s', found.st_ino, 0, NULL, 0);
  pthread_mutex_unlock(&lock);
  errno = before;
  return failed;
}
int fsync(int fd) { return sync_noting(fd, real_fsync); }
int fdatasync(int fd) { return sync_noting(fd, real_fdatasync); }

static int unlink_noting(int at, const char *path, int flags) {
  pthread_mutex_lock(&lock);
  struct stat found;
  int ours = path[0] == '/' && is_below(path) && lstat(path, &found) == 0 && S_ISREG(found.st_mode);
  if (ours) tick();
  int failed = real_unlinkat(at, path, flags), before = errno;
  if (ours && !failed) note('u', 0, 0, path, strlen(path));
  pthread_mutex_unlock(&lock);
  errno = before;
  return failed;
}
int unlink(const char *path) { return unlink_noting(AT_FDCWD, path, 0); }
int unlinkat(int at, const char *path, int flags) { return unlink_noting(at, path, flags); }

/* The file sink's daily rotation renames by a system call that no library sees. A named pipe is not noted: no disk has
 * what is in it. */
int rename(const char *from, const char *to) {
  char both[2 * PATH_MAX];
  pthread_mutex_lock(&lock);
  struct stat found;
  int ours = is_below(from) && lstat(from, &found) == 0 && S_ISREG(found.st_mode);
  if (ours) tick();
  int failed = real_rename(from, to), before = errno;
  /* Both names, with a zero between them. */
  if (ours && !failed) note('r', found.st_ino, 0, both, snprintf(both, sizeof both, "%s%c%s", from, 0, to));
  pthread_mutex_unlock(&lock);
  errno = before;
  return failed;
}
