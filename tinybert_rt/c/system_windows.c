/* The operating system's part on Windows. */
#if defined _WIN32
#define WIN32_LEAN_AND_MEAN
#include "system.h"

#include "kernels.h"
#include "tinybert_rt.h"

#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <windows.h>

#define LONGEST_PATH 32768

int tbrt_map_file(const char *path, tbrt_mapping *mapping, char *reason, size_t reason_size) {
    mapping->data = NULL;
    mapping->size = 0;
    WCHAR *wide = malloc(LONGEST_PATH * sizeof(WCHAR));
    if (wide == NULL)
        return TBRT_OUT_OF_MEMORY;
    HANDLE file = INVALID_HANDLE_VALUE;
    DWORD problem = ERROR_INVALID_NAME;
    if (MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, LONGEST_PATH) > 0) {
        file = CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, NULL, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, NULL);
        problem = GetLastError();
    }
    free(wide);
    if (file == INVALID_HANDLE_VALUE) {
        if (problem == ERROR_FILE_NOT_FOUND || problem == ERROR_PATH_NOT_FOUND)
            return TBRT_MODEL_NOT_FOUND;
        snprintf(reason, reason_size, "Windows error %lu", problem);
        return TBRT_UNREADABLE_FILE;
    }
    int status = TBRT_UNREADABLE_FILE;
    LARGE_INTEGER size;
    HANDLE section = NULL;
    if (GetFileSizeEx(file, &size)) {
        if (size.QuadPart == 0) {
            status = TBRT_EMPTY_FILE;
        } else if ((section = CreateFileMappingW(file, NULL, PAGE_READONLY, 0, 0, NULL)) != NULL) {
            mapping->data = MapViewOfFile(section, FILE_MAP_READ, 0, 0, 0);
            mapping->size = (size_t)size.QuadPart;
            status = mapping->data != NULL ? TBRT_OK : TBRT_UNREADABLE_FILE;
        }
    }
    if (status == TBRT_UNREADABLE_FILE)
        snprintf(reason, reason_size, "Windows error %lu", GetLastError());
    if (section != NULL)
        CloseHandle(section);
    CloseHandle(file);
    return status;
}

void tbrt_unmap_file(tbrt_mapping *mapping) {
    if (mapping->data != NULL)
        UnmapViewOfFile(mapping->data);
    mapping->data = NULL;
}

void *tbrt_system_allocate(void *user, size_t size, size_t alignment) {
    (void)user;
    return _aligned_malloc(size, alignment);
}

void tbrt_system_release(void *user, void *memory, size_t size) {
    (void)user;
    (void)size;
    _aligned_free(memory);
}

int tbrt_available_cpus(void) {
    DWORD_PTR process = 0, system = 0;
    int count = 0;
    if (GetProcessAffinityMask(GetCurrentProcess(), &process, &system))
        for (; process != 0; process &= process - 1)
            count++;
    return count < 1 ? 1 : count;
}

int64_t tbrt_process_id(void) {
    return (int64_t)GetCurrentProcessId();
}

static DWORD WINAPI run_thread(void *argument) {
    tbrt_thread *thread = argument;
    thread->run(thread->argument);
    return 0;
}

int tbrt_thread_start(tbrt_thread *thread) {
    thread->handle = CreateThread(NULL, 0, run_thread, thread, 0, NULL);
    return thread->handle == NULL;
}

void tbrt_thread_join(tbrt_thread *thread) {
    WaitForSingleObject(thread->handle, INFINITE);
    CloseHandle(thread->handle);
}

static HANDLE semaphore_in(void *memory) {
    HANDLE semaphore;
    memcpy(&semaphore, memory, sizeof semaphore);
    return semaphore;
}

int tbrt_semaphore_init(void *memory) {
    HANDLE semaphore = CreateSemaphoreW(NULL, 0, 0x7fffffff, NULL);
    memcpy(memory, &semaphore, sizeof semaphore);
    return semaphore == NULL;
}

void tbrt_semaphore_destroy(void *memory) {
    CloseHandle(semaphore_in(memory));
}

int tbrt_semaphore_wait(void *memory) {
    return WaitForSingleObject(semaphore_in(memory), INFINITE) != WAIT_OBJECT_0;
}

int tbrt_semaphore_post(void *memory) {
    return !ReleaseSemaphore(semaphore_in(memory), 1, NULL);
}

int tbrt_yield(void *unused) {
    (void)unused;
    return !SwitchToThread();
}
#else
typedef int tbrt_not_windows; /* ISO C wants something in every file */
#endif
