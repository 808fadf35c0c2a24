/* What the shim needs of the operating system. */
#ifndef TBRT_SYSTEM_H
#define TBRT_SYSTEM_H

#include <stddef.h>
#include <stdint.h>

/* A file in memory, read-only. data is NULL where nothing is mapped. */
typedef struct tbrt_mapping {
    const unsigned char *data;
    size_t size;
} tbrt_mapping;

/* Map a file; path is UTF-8. Returns a tbrt_status, and the system's words for the reason in `reason`. */
int tbrt_map_file(const char *path, tbrt_mapping *mapping, char *reason, size_t reason_size);
void tbrt_unmap_file(tbrt_mapping *mapping);

void *tbrt_system_allocate(void *user, size_t size, size_t alignment);
void tbrt_system_release(void *user, void *memory, size_t size);

/* CPUs that this process may use: its affinity mask and its cgroup's quota; at least 1. */
int tbrt_available_cpus(void);

/* A number of this process, another one after fork(). */
int64_t tbrt_process_id(void);

/* A thread with all signals blocked but those of faults. Returns 0, or another value where it cannot be started. */
typedef struct tbrt_thread {
    void *handle;
    void (*run)(void *argument);
    void *argument;
} tbrt_thread;
int tbrt_thread_start(tbrt_thread *thread);
void tbrt_thread_join(tbrt_thread *thread);

/* Semaphores in TBRT_SEMAPHORE_BYTES of memory. The last three fit the kernels' callbacks. */
int tbrt_semaphore_init(void *memory);
void tbrt_semaphore_destroy(void *memory);
int tbrt_semaphore_wait(void *memory);
int tbrt_semaphore_post(void *memory);
int tbrt_yield(void *unused);

#endif
