/* Kills a process at its n-th change of a folder: for tests/test_kills.py, loaded before libc by LD_PRELOAD.

   Counted is each call that changes what lies below the folder, whoever makes it, Python, PyTorch's zip writer or SQLite:
   a file made or emptied, written, cut, lengthened, flushed to the disk, renamed or removed, a folder made. kill_at(...)
   says at which the process is to die, and how: before the call, or in the middle of what it writes.
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[4096], seen[4096];
static size_t folder_length;
static long count, last;
static int torn, log_file = -1;

/* Begin to count. `at`: the change to die at, 0 for none; `half`: in the middle of it; `names`: a file for a line each. */
void kill_at(const char *below, long at, int half, const char *names) {
    snprintf(folder, sizeof folder, "%s", below);
    folder_length = strlen(folder);
    count = 0, last = at, torn = half;
    log_file = names ? (int)syscall(SYS_openat, AT_FDCWD, names, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0644) : -1;
}

void kill_now(void) { syscall(SYS_kill, getpid(), SIGKILL); pause(); }

static int below(const char *path) {
    return folder_length && !strncmp(path, folder, folder_length) && (!path[folder_length] || path[folder_length] == '/');
}

static const char *path_of(int file) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, seen, sizeof seen - 1);
    seen[length > 0 ? length : 0] = 0;
    return seen;
}

/* Count a change; dies where it is the one, unless it is to be torn, which its caller sees to. */
static int due(const char *name, const char *path, size_t bytes) {
    if (!below(path)) return 0;
    count++;
    if (log_file >= 0) dprintf(log_file, "%s\t%zu\t%s\n", name, bytes, path + folder_length);
    if (count != last) return 0;
    if (!torn || !bytes) kill_now();
    return 1;
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int file, const void *data, size_t bytes) {
    REAL(write);
    if (folder_length && file != log_file && due("write", path_of(file), bytes)) { real(file, data, bytes / 2); kill_now(); }
    return real(file, data, bytes);
}
ssize_t pwrite(int file, const void *data, size_t bytes, off_t at) {
    REAL(pwrite);
    if (folder_length && due("write", path_of(file), bytes)) { real(file, data, bytes / 2, at); kill_now(); }
    return real(file, data, bytes, at);
}
ssize_t pwrite64(int file, const void *data, size_t bytes, off64_t at) {
    REAL(pwrite64);
    if (folder_length && due("write", path_of(file), bytes)) { real(file, data, bytes / 2, at); kill_now(); }
    return real(file, data, bytes, at);
}
ssize_t writev(int file, const struct iovec *parts, int many) {
    REAL(writev);
    if (folder_length && due("write", path_of(file), parts[0].iov_len)) { real(file, parts, many / 2); kill_now(); }
    return real(file, parts, many);
}

#define ON_FILE(name, says, parameters, arguments) \
    int name parameters { REAL(name); if (folder_length) due(says, path_of(file), 0); return real arguments; }
ON_FILE(fsync, "fsync", (int file), (file))
ON_FILE(fdatasync, "fsync", (int file), (file))
ON_FILE(ftruncate, "truncate", (int file, off_t length), (file, length))
ON_FILE(ftruncate64, "truncate", (int file, off64_t length), (file, length))
ON_FILE(posix_fallocate, "allocate", (int file, off_t at, off_t length), (file, at, length))
ON_FILE(posix_fallocate64, "allocate", (int file, off64_t at, off64_t length), (file, at, length))

#define ON_PATH(name, says, parameters, arguments) \
    int name parameters { REAL(name); due(says, path, 0); return real arguments; }
ON_PATH(rename, "rename", (const char *path, const char *to), (path, to))
ON_PATH(unlink, "unlink", (const char *path), (path))
ON_PATH(rmdir, "rmdir", (const char *path), (path))
ON_PATH(mkdir, "mkdir", (const char *path, mode_t mode), (path, mode))
ON_PATH(truncate, "truncate", (const char *path, off_t length), (path, length))
ON_PATH(renameat, "rename", (int from, const char *path, int at, const char *to), (from, path, at, to))
ON_PATH(unlinkat, "unlink", (int at, const char *path, int flags), (at, path, flags))
ON_PATH(mkdirat, "mkdir", (int at, const char *path, mode_t mode), (at, path, mode))
ON_PATH(link, "link", (const char *old, const char *path), (old, path))
ON_PATH(symlink, "link", (const char *old, const char *path), (old, path))

int msync(void *start, size_t bytes, int flags) { /* of any mapped file: there is one, the replay */
    REAL(msync);
    due("msync", folder, 0);
    return real(start, bytes, flags);
}

static void opened(const char *path, int flags) {
    if ((flags & O_TRUNC && (flags & O_ACCMODE) != O_RDONLY) || (flags & O_CREAT && syscall(SYS_faccessat, AT_FDCWD, path, F_OK)))
        due("open", path, 0);
}
#define MODE mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }
int open(const char *path, int flags, ...) { REAL(open); MODE opened(path, flags); return real(path, flags, mode); }
int open64(const char *path, int flags, ...) { REAL(open64); MODE opened(path, flags); return real(path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { REAL(openat); MODE opened(path, flags); return real(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { REAL(openat64); MODE opened(path, flags); return real(at, path, flags, mode); }
