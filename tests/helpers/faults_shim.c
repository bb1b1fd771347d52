/*
 * Faults of the file system, for tests: this library stands before the C library (LD_PRELOAD) and counts every call
 * that changes something below one folder. At the call with a chosen number it kills the process, refuses the call
 * with an error, or lets only half of a write through; or it writes down every call with its data.
 *
 * Python, safetensors, tokenizers and polars all go through the C library, so one counter sees them all. Whether a call
 * concerns the folder is decided by its path, or by /proc/self/fd for a descriptor, so nothing has to be tracked.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum mode { OFF, COUNT, KILL, FAIL, SHORT, TRACE };
/* What a call does, so that only some kinds may be refused: a full disk still removes files. */
enum kind { TAKES_SPACE = 1, REMOVES = 2, OTHER = 4 };
enum verdict { GO, REFUSED, HALF };

static char root[PATH_MAX];
static size_t root_length;
static int mode = OFF, refusal, later, no_exchange, trace_descriptor = -1;
static long chosen;
static atomic_long calls;
static pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* ------------------------------------------------------------------------------------------ what tests call */

void faults_watch(const char *folder) {
    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root);
}

/* From now on count from 0. `later`: kinds of calls that are refused after the chosen one (and from the start when
 * the chosen number is 0). */
void faults_arm(int wanted, long number, int error, int kinds, const char *trace) {
    atomic_store(&calls, 0);
    chosen = number, refusal = error, later = kinds;
    if (trace) trace_descriptor = open(trace, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    mode = wanted;
}

long faults_disarm(void) {
    mode = OFF;
    return atomic_load(&calls);
}

/* As on a file system that cannot swap two names in one step. */
void faults_without_exchange(int without) { no_exchange = without; }

/* -------------------------------------------------------------------------------------------- what concerns us */

static int below(const char *path) {
    return root_length && !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static int path_of(int descriptor, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0;
}

/* The absolute path of a name given to an ...at() call; true when it lies below the folder. */
static int resolve(int folder, const char *name, char *path) {
    if (mode == OFF || !name) return 0;
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
        return below(path);
    }
    char start[PATH_MAX];
    if (folder == AT_FDCWD ? !getcwd(start, sizeof start) : !path_of(folder, start)) return 0;
    if (snprintf(path, PATH_MAX, "%s/%s", start, name) >= PATH_MAX) return 0;
    return below(path);
}

static int concerns(int descriptor, char *path) {
    return mode != OFF && path_of(descriptor, path) && below(path);
}

static enum verdict judge(enum kind kind) {
    long number = atomic_fetch_add(&calls, 1) + 1;
    if (number == chosen && mode == KILL) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    if (number == chosen && mode == SHORT) return HALF;
    if (mode != FAIL && mode != SHORT) return GO;
    if (number == chosen && kind == REMOVES && later && !(later & REMOVES)) return GO; /* what lasts spares removals */
    return (mode == FAIL && number == chosen) || (number > chosen && (later & kind)) ? REFUSED : GO;
}

#define REFUSE_IF(kind) \
    if (judge(kind) == REFUSED) { errno = refusal; return -1; }

/* -------------------------------------------------------------------------------------------------- the trace */

static void put(const void *bytes, size_t length) {
    REAL(write);
    while (length > 0) {
        ssize_t done = real(trace_descriptor, bytes, length);
        if (done <= 0) abort();
        bytes = (const char *)bytes + done, length -= done;
    }
}

/* call NUL inode NUL offset NUL length NUL path NUL other path NUL, then `length` bytes as they are in the file now */
static void trace(const char *call, const char *path, const char *other, off_t offset, size_t length) {
    if (mode != TRACE || trace_descriptor < 0) return;
    int kept = errno;
    struct stat found = {0};
    lstat(path, &found);
    char head[2 * PATH_MAX + 128];
    pthread_mutex_lock(&writing);
    int size = snprintf(head, sizeof head, "%s%c%lu%c%lld%c%zu%c%s%c%s%c", call, 0, (unsigned long)found.st_ino, 0,
                        (long long)offset, 0, length, 0, path, 0, other ? other : "", 0);
    put(head, size);
    if (length) {
        char *data = malloc(length);
        int descriptor = open(path, O_RDONLY | O_CLOEXEC);
        if (!data || pread(descriptor, data, length, offset) != (ssize_t)length) abort();
        close(descriptor);
        put(data, length);
        free(data);
    }
    pthread_mutex_unlock(&writing);
    errno = kept;
}

/* Where a write without an offset goes. */
static off_t place_of(int descriptor) {
    struct stat found;
    if (fcntl(descriptor, F_GETFL) & O_APPEND) return fstat(descriptor, &found) ? 0 : found.st_size;
    return lseek(descriptor, 0, SEEK_CUR);
}

/* ------------------------------------------------------------------------------------------------------ opening */

#define OPENING(real_call) \
    char path[PATH_MAX]; \
    int changes = flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR); \
    if (!changes || !resolve(folder, name, path)) return real_call; \
    struct stat before; \
    int existed = !lstat(path, &before); \
    REFUSE_IF(TAKES_SPACE) \
    int descriptor = real_call; \
    if (descriptor >= 0) { \
        if (!existed) trace("create", path, 0, 0, 0); \
        else if (flags & O_TRUNC) trace("truncate", path, 0, 0, 0); \
    } \
    return descriptor;

#define MODE_ARGUMENT \
    mode_t rights = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { \
        va_list list; \
        va_start(list, flags); \
        rights = va_arg(list, mode_t); \
        va_end(list); \
    } \
    int folder = AT_FDCWD; \
    (void)folder;

int open(const char *name, int flags, ...) {
    REAL(open);
    MODE_ARGUMENT
    OPENING(real(name, flags, rights))
}

int open64(const char *name, int flags, ...) {
    REAL(open64);
    MODE_ARGUMENT
    OPENING(real(name, flags, rights))
}

int openat(int at, const char *name, int flags, ...) {
    REAL(openat);
    MODE_ARGUMENT
    folder = at;
    OPENING(real(at, name, flags, rights))
}

int openat64(int at, const char *name, int flags, ...) {
    REAL(openat64);
    MODE_ARGUMENT
    folder = at;
    OPENING(real(at, name, flags, rights))
}

int creat(const char *name, mode_t rights) { return open(name, O_CREAT | O_WRONLY | O_TRUNC, rights); }
int creat64(const char *name, mode_t rights) { return open64(name, O_CREAT | O_WRONLY | O_TRUNC, rights); }

/* ------------------------------------------------------------------------------------------------------ writing */

#define WRITING(descriptor, offset, whole_call, half_call) \
    char path[PATH_MAX]; \
    if (!concerns(descriptor, path)) return whole_call; \
    off_t start = offset; \
    enum verdict verdict = judge(TAKES_SPACE); \
    if (verdict == REFUSED) { errno = refusal; return -1; } \
    ssize_t done = verdict == HALF ? half_call : whole_call; \
    if (done > 0) trace("write", path, 0, start, done); \
    return done;

static size_t half(size_t count) { return count > 1 ? count / 2 : count; }

ssize_t write(int descriptor, const void *bytes, size_t count) {
    REAL(write);
    WRITING(descriptor, place_of(descriptor), real(descriptor, bytes, count), real(descriptor, bytes, half(count)))
}

ssize_t pwrite(int descriptor, const void *bytes, size_t count, off_t offset) {
    REAL(pwrite);
    WRITING(descriptor, offset, real(descriptor, bytes, count, offset), real(descriptor, bytes, half(count), offset))
}

ssize_t pwrite64(int descriptor, const void *bytes, size_t count, off64_t offset) {
    REAL(pwrite64);
    WRITING(descriptor, offset, real(descriptor, bytes, count, offset), real(descriptor, bytes, half(count), offset))
}

ssize_t writev(int descriptor, const struct iovec *parts, int count) {
    REAL(writev);
    WRITING(descriptor, place_of(descriptor), real(descriptor, parts, count), real(descriptor, parts, 1))
}

ssize_t pwritev(int descriptor, const struct iovec *parts, int count, off_t offset) {
    REAL(pwritev);
    WRITING(descriptor, offset, real(descriptor, parts, count, offset), real(descriptor, parts, 1, offset))
}

ssize_t pwritev64(int descriptor, const struct iovec *parts, int count, off64_t offset) {
    REAL(pwritev64);
    WRITING(descriptor, offset, real(descriptor, parts, count, offset), real(descriptor, parts, 1, offset))
}

ssize_t sendfile(int descriptor, int from, off_t *offset, size_t count) {
    REAL(sendfile);
    WRITING(descriptor, place_of(descriptor), real(descriptor, from, offset, count),
            real(descriptor, from, offset, half(count)))
}

ssize_t sendfile64(int descriptor, int from, off64_t *offset, size_t count) {
    REAL(sendfile64);
    WRITING(descriptor, place_of(descriptor), real(descriptor, from, offset, count),
            real(descriptor, from, offset, half(count)))
}

ssize_t copy_file_range(int from, off64_t *first, int descriptor, off64_t *second, size_t count, unsigned flags) {
    REAL(copy_file_range);
    WRITING(descriptor, second ? *second : place_of(descriptor), real(from, first, descriptor, second, count, flags),
            real(from, first, descriptor, second, half(count), flags))
}

/* ------------------------------------------------------------------------------- calls on an open file or folder */

#define ON_DESCRIPTOR(kind, call, offset, real_call) \
    char path[PATH_MAX]; \
    if (!concerns(descriptor, path)) return real_call; \
    REFUSE_IF(kind) \
    int result = real_call; \
    if (!result) trace(call, path, 0, offset, 0); \
    return result;

int fsync(int descriptor) {
    REAL(fsync);
    ON_DESCRIPTOR(TAKES_SPACE, "sync", 0, real(descriptor))
}

int fdatasync(int descriptor) {
    REAL(fdatasync);
    ON_DESCRIPTOR(TAKES_SPACE, "sync", 0, real(descriptor))
}

int ftruncate(int descriptor, off_t length) {
    REAL(ftruncate);
    ON_DESCRIPTOR(TAKES_SPACE, "resize", length, real(descriptor, length))
}

int ftruncate64(int descriptor, off64_t length) {
    REAL(ftruncate64);
    ON_DESCRIPTOR(TAKES_SPACE, "resize", length, real(descriptor, length))
}

int fchmod(int descriptor, mode_t rights) {
    REAL(fchmod);
    ON_DESCRIPTOR(OTHER, "rights", 0, real(descriptor, rights))
}

/* ---------------------------------------------------------------------------------------------- calls on a name */

#define ON_NAME(folder, kind, call, real_call) \
    char path[PATH_MAX]; \
    if (!resolve(folder, name, path)) return real_call; \
    REFUSE_IF(kind) \
    int result = real_call; \
    if (!result) trace(call, path, 0, 0, 0); \
    return result;

int unlink(const char *name) {
    REAL(unlink);
    ON_NAME(AT_FDCWD, REMOVES, "remove", real(name))
}

int rmdir(const char *name) {
    REAL(rmdir);
    ON_NAME(AT_FDCWD, REMOVES, "remove", real(name))
}

int unlinkat(int at, const char *name, int flags) {
    REAL(unlinkat);
    ON_NAME(at, REMOVES, "remove", real(at, name, flags))
}

int mkdir(const char *name, mode_t rights) {
    REAL(mkdir);
    ON_NAME(AT_FDCWD, TAKES_SPACE, "folder", real(name, rights))
}

int mkdirat(int at, const char *name, mode_t rights) {
    REAL(mkdirat);
    ON_NAME(at, TAKES_SPACE, "folder", real(at, name, rights))
}

int chmod(const char *name, mode_t rights) {
    REAL(chmod);
    ON_NAME(AT_FDCWD, OTHER, "rights", real(name, rights))
}

int fchmodat(int at, const char *name, mode_t rights, int flags) {
    REAL(fchmodat);
    ON_NAME(at, OTHER, "rights", real(at, name, rights, flags))
}

int truncate(const char *name, off_t length) {
    REAL(truncate);
    ON_NAME(AT_FDCWD, TAKES_SPACE, "not simulated", real(name, length))
}

int symlink(const char *target, const char *name) {
    REAL(symlink);
    ON_NAME(AT_FDCWD, TAKES_SPACE, "not simulated", real(target, name))
}

/* ------------------------------------------------------------------------------------------- calls on two names */

#define ON_NAMES(first_at, first, second_at, second, call, real_call) \
    char path[PATH_MAX], other[PATH_MAX]; \
    int ours = resolve(first_at, first, path); \
    if (!resolve(second_at, second, other) && !ours) return real_call; \
    REFUSE_IF(OTHER) \
    int result = real_call; \
    if (!result) trace(call, other, path, 0, 0); \
    return result;

int rename(const char *from, const char *to) {
    REAL(rename);
    ON_NAMES(AT_FDCWD, from, AT_FDCWD, to, "rename", real(from, to))
}

int renameat(int from_at, const char *from, int to_at, const char *to) {
    REAL(renameat);
    ON_NAMES(from_at, from, to_at, to, "rename", real(from_at, from, to_at, to))
}

int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    REAL(renameat2);
    if (no_exchange && flags) {
        errno = EINVAL;
        return -1;
    }
    ON_NAMES(from_at, from, to_at, to, flags & RENAME_EXCHANGE ? "exchange" : "rename",
             real(from_at, from, to_at, to, flags))
}

int link(const char *from, const char *to) {
    REAL(link);
    ON_NAMES(AT_FDCWD, from, AT_FDCWD, to, "link", real(from, to))
}

int linkat(int from_at, const char *from, int to_at, const char *to, int flags) {
    REAL(linkat);
    ON_NAMES(from_at, from, to_at, to, "link", real(from_at, from, to_at, to, flags))
}
