/* Makes reads of one file fail from an offset on, as a broken disk does. Loaded with LD_PRELOAD.
 *
 * FAULT_FILE    the file; it is recognised by device and inode, however it is opened
 * FAULT_OFFSET  the first byte that cannot be read
 * FAULT_MMAP    if set, mapping such bytes fails instead
 * FAULT_LOG     where each failure is noted, a line with the function's name each
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static dev_t device;
static ino_t inode;
static off_t first_bad = -1;
static int maps_fail;

__attribute__((constructor)) static void start(void) {
    const char *file = getenv("FAULT_FILE"), *offset = getenv("FAULT_OFFSET");
    struct stat status;
    if (file && offset && stat(file, &status) == 0) {
        device = status.st_dev;
        inode = status.st_ino;
        first_bad = atoll(offset);
        maps_fail = getenv("FAULT_MMAP") != NULL;
    }
}

/* How many of `count` bytes at `offset` can be read; -1 with EIO if none, which is noted. */
static ssize_t readable(const char *function, int fd, off_t offset, size_t count) {
    struct stat status;
    int before = errno;
    if (first_bad < 0 || count == 0 || maps_fail != (strncmp(function, "mmap", 4) == 0) || fstat(fd, &status) != 0 || status.st_dev != device || status.st_ino != inode) {
        errno = before;
        return (ssize_t)count;
    }
    if (offset < first_bad) {
        return offset + (off_t)count > first_bad ? first_bad - offset : (ssize_t)count;
    }
    if (offset >= status.st_size) {
        return (ssize_t)count; /* the end of the file can be seen */
    }
    const char *log = getenv("FAULT_LOG");
    int to = log ? open(log, O_WRONLY | O_CREAT | O_APPEND, 0644) : -1;
    if (to >= 0) {
        char line[64];
        int length = snprintf(line, sizeof line, "%s\n", function);
        if (write(to, line, (size_t)length) < 0) {
        }
        close(to);
    }
    errno = EIO;
    return -1;
}

static off_t here(int fd) {
    int before = errno;
    off_t at = lseek(fd, 0, SEEK_CUR);
    errno = before;
    return at < 0 ? 0 : at;
}

static size_t total(const struct iovec *parts, int count) {
    size_t sum = 0;
    for (int i = 0; i < count; i++) {
        sum += parts[i].iov_len;
    }
    return sum;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t read(int fd, void *to, size_t count) {
    ssize_t left = readable("read", fd, here(fd), count);
    return left < 0 ? -1 : REAL(read)(fd, to, (size_t)left);
}

#define PREAD(name)                                                       \
    ssize_t name(int fd, void *to, size_t count, off_t offset) {         \
        ssize_t left = readable(#name, fd, offset, count);               \
        return left < 0 ? -1 : REAL(name)(fd, to, (size_t)left, offset); \
    }
PREAD(pread)
PREAD(pread64)

/* Of several buffers only the first is filled where not all bytes can be read: readers go on with the rest. */
static int fitting(const struct iovec *parts, int count, ssize_t left, struct iovec *one) {
    if (left == (ssize_t)total(parts, count)) {
        return 0;
    }
    one->iov_base = parts[0].iov_base;
    one->iov_len = (size_t)left < parts[0].iov_len ? (size_t)left : parts[0].iov_len;
    return 1;
}

ssize_t readv(int fd, const struct iovec *parts, int count) {
    struct iovec one;
    ssize_t left = readable("readv", fd, here(fd), total(parts, count));
    if (left < 0) {
        return -1;
    }
    return fitting(parts, count, left, &one) ? REAL(readv)(fd, &one, 1) : REAL(readv)(fd, parts, count);
}

#define PREADV(name)                                                                  \
    ssize_t name(int fd, const struct iovec *parts, int count, off_t offset) {       \
        struct iovec one;                                                             \
        ssize_t left = readable(#name, fd, offset, total(parts, count));             \
        if (left < 0) {                                                               \
            return -1;                                                                \
        }                                                                             \
        if (fitting(parts, count, left, &one)) {                                      \
            return REAL(name)(fd, &one, 1, offset);                                   \
        }                                                                             \
        return REAL(name)(fd, parts, count, offset);                                  \
    }
PREADV(preadv)
PREADV(preadv64)

#define PREADV2(name)                                                                        \
    ssize_t name(int fd, const struct iovec *parts, int count, off_t offset, int flags) {   \
        struct iovec one;                                                                    \
        ssize_t left = readable(#name, fd, offset, total(parts, count));                    \
        if (left < 0) {                                                                      \
            return -1;                                                                       \
        }                                                                                    \
        if (fitting(parts, count, left, &one)) {                                             \
            return REAL(name)(fd, &one, 1, offset, flags);                                   \
        }                                                                                    \
        return REAL(name)(fd, parts, count, offset, flags);                                  \
    }
PREADV2(preadv2)
PREADV2(preadv64v2)

ssize_t copy_file_range(int from, off64_t *offset, int to, off64_t *place, size_t count, unsigned int flags) {
    ssize_t left = readable("copy_file_range", from, offset ? *offset : here(from), count);
    return left < 0 ? -1 : REAL(copy_file_range)(from, offset, to, place, (size_t)left, flags);
}

#define SENDFILE(name)                                                                \
    ssize_t name(int to, int from, off_t *offset, size_t count) {                     \
        ssize_t left = readable(#name, from, offset ? *offset : here(from), count);   \
        return left < 0 ? -1 : REAL(name)(to, from, offset, (size_t)left);            \
    }
SENDFILE(sendfile)
SENDFILE(sendfile64)

/* A mapping cannot be cut short, so it fails if any of its bytes cannot be read. */
#define MMAP(name)                                                                                         \
    void *name(void *at, size_t length, int protection, int flags, int fd, off_t offset) {                 \
        if (maps_fail && fd >= 0 && !(flags & MAP_ANONYMOUS) && offset + (off_t)length > first_bad) {      \
            off_t bad = offset > first_bad ? offset : first_bad;                                           \
            if (readable(#name, fd, bad, 1) < 0) {                                                         \
                return MAP_FAILED;                                                                         \
            }                                                                                              \
        }                                                                                                  \
        return (void *)syscall(SYS_mmap, at, length, protection, flags, fd, offset);                       \
    }
MMAP(mmap)
MMAP(mmap64)
