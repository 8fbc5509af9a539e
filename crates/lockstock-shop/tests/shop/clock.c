/* Preloaded into a process: its clock differs from that of the machine. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) {
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    }
    int result = real(clock, time);
    const char *offset = getenv("CLOCK_OFFSET_SECONDS");
    if (clock == CLOCK_REALTIME && offset) {
        time->tv_sec += atol(offset);
    }
    return result;
}
