/* The operating system's part on Linux, Android, macOS and iOS. */
#if !defined _WIN32
#define _GNU_SOURCE /* sched_getaffinity */

#include "system.h"

#include "kernels.h"
#include "tinybert_rt.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined __APPLE__
#include <dispatch/dispatch.h>
#else
#include <semaphore.h>
_Static_assert(sizeof(sem_t) <= TBRT_SEMAPHORE_BYTES, "a semaphore needs more room");
#endif

#define STACK_BYTES ((size_t)1 << 20)

int tbrt_map_file(const char *path, tbrt_mapping *mapping, char *reason, size_t reason_size) {
    mapping->data = NULL;
    mapping->size = 0;
    int file;
    do {
        file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe without a writer would be waited for */
    } while (file < 0 && errno == EINTR);
    if (file < 0) {
        if (errno == ENOENT || errno == ENOTDIR)
            return TBRT_MODEL_NOT_FOUND;
        snprintf(reason, reason_size, "%s", strerror(errno));
        return TBRT_UNREADABLE_FILE;
    }
    struct stat facts;
    int status = TBRT_OK;
    if (fstat(file, &facts) != 0) {
        snprintf(reason, reason_size, "%s", strerror(errno));
        status = TBRT_UNREADABLE_FILE;
    } else if (!S_ISREG(facts.st_mode)) {
        snprintf(reason, reason_size, "%s", S_ISDIR(facts.st_mode) ? "it is a directory" : "it is no regular file");
        status = TBRT_UNREADABLE_FILE;
    } else if (facts.st_size == 0) {
        status = TBRT_EMPTY_FILE;
    } else {
        void *data = mmap(NULL, (size_t)facts.st_size, PROT_READ, MAP_PRIVATE, file, 0);
        if (data == MAP_FAILED) {
            status = errno == ENOMEM ? TBRT_OUT_OF_MEMORY : TBRT_UNREADABLE_FILE;
            snprintf(reason, reason_size, "%s", strerror(errno));
        } else {
            mapping->data = data;
            mapping->size = (size_t)facts.st_size;
        }
    }
    close(file);
    return status;
}

void tbrt_unmap_file(tbrt_mapping *mapping) {
    if (mapping->data != NULL)
        munmap((void *)(uintptr_t)mapping->data, mapping->size);
    mapping->data = NULL;
}

void *tbrt_system_allocate(void *user, size_t size, size_t alignment) {
    (void)user;
    /* calloc: large memory comes as zero pages that cost nothing until they are used, and the kernels, which read padding whose
     * content does not matter, never read what valgrind calls uninitialised. */
    if (size > SIZE_MAX - alignment - sizeof(void *))
        return NULL;
    unsigned char *memory = calloc(1, size + alignment + sizeof(void *));
    if (memory == NULL)
        return NULL;
    unsigned char *aligned = memory + sizeof(void *);
    aligned += (alignment - (uintptr_t)aligned % alignment) % alignment;
    memcpy(aligned - sizeof(void *), &memory, sizeof memory);
    return aligned;
}

void tbrt_system_release(void *user, void *memory, size_t size) {
    (void)user;
    (void)size;
    void *whole;
    memcpy(&whole, (unsigned char *)memory - sizeof whole, sizeof whole);
    free(whole);
}

#if defined __linux__
/* Two numbers from a file of the kernel's; a word instead of the first one counts as -1. Returns 1 if both were there. */
static int read_numbers(const char *path, long long *first, long long *second) {
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return 0;
    char line[64] = "";
    int found = fgets(line, sizeof line, file) != NULL;
    fclose(file);
    if (!found)
        return 0;
    char *end;
    *first = strtoll(line, &end, 10);
    if (end == line) {
        *first = -1;
        end = strchr(line, ' ');
    }
    if (second == NULL)
        return 1;
    if (end == NULL)
        return 0;
    char *rest = end;
    *second = strtoll(rest, &end, 10);
    return end != rest;
}
#endif

int tbrt_available_cpus(void) {
    long count = sysconf(_SC_NPROCESSORS_ONLN);
#if defined __linux__
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0)
        count = CPU_COUNT(&allowed);
    long long quota = -1, period = 0;
    int known = read_numbers("/sys/fs/cgroup/cpu.max", &quota, &period);
    if (!known)
        known = read_numbers("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", &quota, NULL) &&
                read_numbers("/sys/fs/cgroup/cpu/cpu.cfs_period_us", &period, NULL);
    if (known && quota > 0 && period > 0) {
        long long cpus = (quota + period - 1) / period;
        if (cpus < count)
            count = (long)cpus;
    }
#endif
    return count < 1 ? 1 : count > TBRT_MAX_THREADS ? TBRT_MAX_THREADS : (int)count;
}

int64_t tbrt_process_id(void) {
    return (int64_t)getpid();
}

static void *run_thread(void *argument) {
    tbrt_thread *thread = argument;
    thread->run(thread->argument);
    return NULL;
}

_Static_assert(sizeof(pthread_t) <= sizeof(void *), "a thread's handle is kept in a pointer");

int tbrt_thread_start(tbrt_thread *thread) {
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0)
        return 1;
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    /* The program's signal handlers run in the program's threads; those of faults run where the fault is. */
    static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT, SIGSYS, SIGPROF};
    sigset_t blocked, before;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        sigdelset(&blocked, faults[i]);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    pthread_t handle;
    int failed = pthread_create(&handle, &attributes, run_thread, thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (failed == 0)
        memcpy(&thread->handle, &handle, sizeof handle);
    return failed;
}

void tbrt_thread_join(tbrt_thread *thread) {
    pthread_t handle;
    memcpy(&handle, &thread->handle, sizeof handle);
    pthread_join(handle, NULL);
}

int tbrt_yield(void *unused) {
    (void)unused;
    return sched_yield();
}

#if defined __APPLE__ /* it has no unnamed POSIX semaphores */
int tbrt_semaphore_init(void *memory) {
    dispatch_semaphore_t semaphore = dispatch_semaphore_create(0);
    memcpy(memory, &semaphore, sizeof semaphore);
    return semaphore == NULL;
}

static dispatch_semaphore_t semaphore_in(void *memory) {
    dispatch_semaphore_t semaphore;
    memcpy(&semaphore, memory, sizeof semaphore);
    return semaphore;
}

void tbrt_semaphore_destroy(void *memory) {
    dispatch_release(semaphore_in(memory));
}

int tbrt_semaphore_wait(void *memory) {
    return dispatch_semaphore_wait(semaphore_in(memory), DISPATCH_TIME_FOREVER) != 0;
}

int tbrt_semaphore_post(void *memory) {
    dispatch_semaphore_signal(semaphore_in(memory));
    return 0;
}
#else
int tbrt_semaphore_init(void *memory) {
    return sem_init(memory, 0, 0);
}

void tbrt_semaphore_destroy(void *memory) {
    sem_destroy(memory);
}

int tbrt_semaphore_wait(void *memory) {
    return sem_wait(memory);
}

int tbrt_semaphore_post(void *memory) {
    return sem_post(memory);
}
#endif
#else
typedef int tbrt_not_posix; /* ISO C wants something in every file */
#endif
