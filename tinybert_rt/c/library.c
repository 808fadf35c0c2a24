/* Versions, instruction-set levels, and what all calls need. */
#include "internal.h"

#include "messages.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNMENT 64
#define LARGEST_STRUCT 4096 /* a larger struct_size was never set */

const char *tbrt_version(void) {
    return TBRT_VERSION;
}

int32_t tbrt_abi_version(void) {
    return TBRT_ABI_VERSION;
}

const char *tbrt_status_text(int status) {
    return tbrt_status_words(status);
}

/* The best level that is offered and called `name` (NULL: any), up to the one called `ceiling` (NULL: no limit). */
static const tbrt_level *find_level(const char *name, const char *ceiling) {
    const uint64_t features = tbrt_cpu_features();
    const tbrt_level *found = NULL;
    for (int i = 0; i < tbrt_level_count; i++) {
        const tbrt_level *level = &tbrt_levels[i];
        if ((level->needs & ~features) == 0 && (name == NULL || strcmp(name, level->name) == 0))
            found = level;
        if (ceiling != NULL && strcmp(ceiling, level->name) == 0)
            break;
    }
    return found;
}

static int level_exists(const char *name) {
    for (int i = 0; i < tbrt_level_count; i++)
        if (strcmp(name, tbrt_levels[i].name) == 0)
            return 1;
    return 0;
}

const char *tbrt_isa(size_t index) {
    const uint64_t features = tbrt_cpu_features();
    for (int i = 0; i < tbrt_level_count; i++)
        if ((tbrt_levels[i].needs & ~features) == 0 && index-- == 0)
            return tbrt_levels[i].name;
    return NULL;
}

int tbrt_choose_level(const char *name, const tbrt_level **level, tbrt_error *error) {
    char message[TBRT_MESSAGE_SIZE];
    const char *ceiling = getenv("TINYBERT_RT_ISA");
    if (ceiling != NULL && *ceiling == '\0')
        ceiling = NULL;
    const char *named[] = {name, ceiling};
    for (int i = 0; i < 2; i++) {
        if (named[i] == NULL)
            continue;
        const char *who = i == 0 ? "isa" : "TINYBERT_RT_ISA";
        if (!level_exists(named[i])) {
            snprintf(message, sizeof message, "%s: this library has no instruction-set level '%.64s'; tbrt_isa lists them", who, named[i]);
            return tbrt_fail(error, TBRT_UNKNOWN_ISA, message);
        }
        if (find_level(named[i], i == 0 ? ceiling : NULL) == NULL) {
            snprintf(message, sizeof message, "%s: this machine%s does not offer the instruction-set level '%.64s'", who,
                     i == 0 && ceiling != NULL ? " (or the variable TINYBERT_RT_ISA)" : "", named[i]);
            return tbrt_fail(error, TBRT_UNSUPPORTED_ISA, message);
        }
    }
    *level = find_level(name, ceiling);
    return TBRT_OK;
}

#if !defined TBRT_STATIC
/* For the Python package: the kernels of a level, or NULL if this machine or this library lacks it. `abi` is what it was made for. */
TBRT_API const void *tbrt_private_kernels(const char *level, const char *abi) {
    if (strcmp(abi, TBRT_KERNEL_ABI) != 0)
        return NULL;
    const tbrt_level *found = find_level(level, NULL);
    return found == NULL ? NULL : &found->kernels;
}
#endif

/* ---------------------------------------------------------------- structs, memory, messages */

int tbrt_read_struct(void *known, size_t known_size, const void *given) {
    size_t size;
    if (given == NULL)
        return 1;
    memcpy(&size, given, sizeof size);
    if (size < sizeof size || size > LARGEST_STRUCT)
        return 0;
    for (size_t i = known_size; i < size; i++)
        if (((const unsigned char *)given)[i] != 0)
            return 0;
    memcpy(known, given, size < known_size ? size : known_size);
    return 1;
}

int tbrt_write_struct(void *wanted, const void *known, size_t known_size) {
    size_t size;
    if (wanted == NULL)
        return TBRT_INVALID_ARGUMENT;
    memcpy(&size, wanted, sizeof size);
    if (size < sizeof size)
        return TBRT_INVALID_ARGUMENT;
    const size_t part = size < known_size ? size : known_size;
    memcpy((unsigned char *)wanted + sizeof size, (const unsigned char *)known + sizeof size, part - sizeof size);
    return TBRT_OK;
}

int tbrt_fail(tbrt_error *error, int status, const char *message) {
    if (error != NULL) {
        error->status = status;
        snprintf(error->message, sizeof error->message, "%s", message);
    }
    return status;
}

void *tbrt_allocate(const tbrt_allocator *allocator, size_t size) {
    return allocator->allocate(allocator->user, size, ALIGNMENT);
}

void tbrt_release(const tbrt_allocator *allocator, void *memory, size_t size) {
    if (memory != NULL)
        allocator->release(allocator->user, memory, size);
}

void tbrt_say(const tbrt_model *model, const char *message) {
    if (model->log != NULL)
        model->log(model->log_user, message);
}
