/* What stands between a daemon under test and the disk: loaded before the C library by LD_PRELOAD.
 *
 * Only calls on files whose path holds $FAULTS_PATH are meant. $FAULTS says what becomes of them:
 *   none     syncs do nothing and succeed, as if they had been taken out of the program
 *   fail:N   the N-th call fails with EIO, all others work (a kernel reports a failed write-back once)
 *   broken:N the N-th call and all after it fail with EIO
 *   stop:N   the process stops itself (SIGSTOP) just before its N-th sync
 *   count    nothing happens to them
 * Calls are counted once the file $FAULTS_ARMED is there, from the start if it is not set. After each, their number stands as text in the
 * file $FAULTS_COUNT, if that is set.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum mode { OFF, NONE, FAIL, BROKEN, STOP, COUNT };

static enum mode mode;
static long at;
static const char *path;
static const char *arm;
static atomic_int armed;
static int count_file = -1;
static atomic_long calls;
static atomic_long syncs;

__attribute__((constructor)) static void start(void)
{
    const char *asked = getenv("FAULTS");
    const char *count = getenv("FAULTS_COUNT");
    path = getenv("FAULTS_PATH");
    arm = getenv("FAULTS_ARMED");
    armed = !arm;
    if (!asked || !path)
        return;
    if (!strcmp(asked, "none"))
        mode = NONE;
    else if (!strcmp(asked, "count"))
        mode = COUNT;
    else if (sscanf(asked, "fail:%ld", &at) == 1)
        mode = FAIL;
    else if (sscanf(asked, "broken:%ld", &at) == 1)
        mode = BROKEN;
    else if (sscanf(asked, "stop:%ld", &at) == 1)
        mode = STOP;
    if (count)
        count_file = open(count, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
}

static int is_meant(int fd)
{
    char link[64], name[4096];
    if (mode == OFF || fd < 0)
        return 0;
    if (!armed) {
        if (access(arm, F_OK))
            return 0;
        armed = 1;
    }
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, sizeof name - 1);
    if (length <= 0)
        return 0;
    name[length] = 0;
    return strstr(name, path) != NULL;
}

/* Whether the call shall fail. */
static int fails(int fd)
{
    if (!is_meant(fd))
        return 0;
    long now = atomic_fetch_add(&calls, 1) + 1;
    if (count_file >= 0) {
        char text[32];
        int length = snprintf(text, sizeof text, "%ld\n", now);
        syscall(SYS_pwrite64, count_file, text, (size_t)length, (off_t)0);
    }
    return (mode == FAIL && now == at) || (mode == BROKEN && now >= at);
}

static int fail(void)
{
    errno = EIO;
    return -1;
}

/* Whether a sync shall be left out. */
static int is_left_out(int fd)
{
    if ((mode != NONE && mode != STOP) || !is_meant(fd))
        return 0;
    if (mode == STOP && atomic_fetch_add(&syncs, 1) + 1 == at)
        kill(getpid(), SIGSTOP);
    return mode == NONE;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int fsync(int fd)
{
    if (fails(fd))
        return fail();
    return is_left_out(fd) ? 0 : NEXT(fsync)(fd);
}

int fdatasync(int fd)
{
    if (fails(fd))
        return fail();
    return is_left_out(fd) ? 0 : NEXT(fdatasync)(fd);
}

ssize_t write(int fd, const void *from, size_t length)
{
    return fails(fd) ? fail() : syscall(SYS_write, fd, from, length);
}

ssize_t pwrite(int fd, const void *from, size_t length, off_t place)
{
    return fails(fd) ? fail() : syscall(SYS_pwrite64, fd, from, length, place);
}

ssize_t pwrite64(int fd, const void *from, size_t length, off64_t place)
{
    return fails(fd) ? fail() : syscall(SYS_pwrite64, fd, from, length, place);
}
