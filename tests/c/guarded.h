/* A copy of bytes whose end is the end of readable memory: kernels, which no sanitizer watches, fault where they read on. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct {
    unsigned char *memory, *data;
    size_t mapped;
} guarded;

static guarded guard(const void *data, size_t size) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = (size + page - 1) / page + 1;
    guarded copy = {mmap(NULL, (pages + 1) * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), NULL, (pages + 1) * page};
    if (copy.memory == MAP_FAILED || mprotect(copy.memory + pages * page, page, PROT_NONE) != 0)
        abort();
    copy.data = copy.memory + pages * page - size;
    if (size != 0)
        memcpy(copy.data, data, size);
    return copy;
}

static void unguard(guarded copy) {
    munmap(copy.memory, copy.mapped);
}
