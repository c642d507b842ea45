/* Moves the wall clock of a process, and leaves its monotonic clock alone: LD_PRELOAD, for row 11 of the fault matrix.
 *
 * The offset in seconds is the first eight bytes of the file $CLOCK_SHIFT, mapped, so that it may change at any time.
 * Waits until a wall time are shifted back, as the kernel's clock is where it was; those on the monotonic clock, whose
 * seconds are few, are left.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define WALL_SECONDS 1000000000L

static volatile int64_t none, *shift = &none;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCK_SHIFT");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *map = mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
    if (map != MAP_FAILED) shift = map;
    close(file);
}

int clock_gettime(clockid_t id, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, id, now);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += *shift;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec wall;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &wall);
    now->tv_sec = wall.tv_sec;
    now->tv_usec = wall.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *into) {
    struct timespec wall;
    clock_gettime(CLOCK_REALTIME, &wall);
    if (into) *into = wall.tv_sec;
    return wall.tv_sec;
}

int timespec_get(struct timespec *now, int base) {
    return base == TIME_UTC && !clock_gettime(CLOCK_REALTIME, now) ? base : 0;
}

static clockid_t unshifted(const struct timespec *until, struct timespec *real) {
    *real = *until;
    if (until->tv_sec < WALL_SECONDS) return CLOCK_MONOTONIC;
    real->tv_sec -= *shift;
    return CLOCK_REALTIME;
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    struct timespec real;
    clockid_t id = unshifted(until, &real);
    return pthread_cond_clockwait(cond, mutex, id, &real);
}

int cnd_timedwait(cnd_t *restrict cond, mtx_t *restrict mutex, const struct timespec *restrict until) {
    int said = pthread_cond_timedwait((pthread_cond_t *)cond, (pthread_mutex_t *)mutex, until);
    return said == 0 ? thrd_success : said == ETIMEDOUT ? thrd_timedout : thrd_error;
}

int sem_timedwait(sem_t *restrict sem, const struct timespec *restrict until) {
    struct timespec real;
    clockid_t id = unshifted(until, &real);
    return sem_clockwait(sem, id, &real);
}
