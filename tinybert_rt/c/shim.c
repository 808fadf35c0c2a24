/* The public C functions over the kernels: files, memory, threads and messages. Nothing here computes. */
#include "tinybert_rt.h"

#include "kernels.h"
#include "levels.h"
#include "messages.h"
#include "system.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNMENT 64
#define LONGEST_TEXT (INT64_MAX / 4)
#define UNKNOWN_OPTIONS "options: struct_size is not set, or members are set that this version does not know"
#define SMALLEST_LIMIT 3 /* [CLS], one token, [SEP] */

struct tbrt_model {
    atomic_size_t owners; /* the caller and each session */
    const tbrt_level *level;
    tbrt_allocator allocator;
    tbrt_log log;
    void *log_user;
    tbrt_mapping mapping;
    const unsigned char *data;
    size_t size;
    kernel_model *kernel;
};

struct tbrt_session {
    atomic_int busy;
    tbrt_model *model;
    kernel_session kernel;
    kernel_request request;
    int64_t process;
    void *arena;
    size_t arena_size;
    tbrt_thread *helpers; /* [started], handed to the threads */
    struct tbrt_serving *serving;
    int threads;
    int started;
    int semaphores;
    int64_t *starts, *ends; /* [2 · TBRT_GROUP_TEXTS] */
    uint8_t *truncated;     /* [TBRT_GROUP_TEXTS] */
    tbrt_report report;
    char message[TBRT_MESSAGE_SIZE];
};

struct tbrt_serving {
    tbrt_session *session;
    int64_t worker;
};

static int64_t address(const void *pointer) {
    return (int64_t)(uintptr_t)pointer;
}

/* ---------------------------------------------------------------- options, errors, memory */

/* Copy a versioned struct of the caller's over the defaults. Returns 0 if it has members that this version does not know. */
static int read_struct(void *known, size_t known_size, const void *given) {
    size_t size;
    if (given == NULL)
        return 1;
    memcpy(&size, given, sizeof size);
    if (size < sizeof size)
        return 0;
    for (size_t i = known_size; i < size; i++)
        if (((const unsigned char *)given)[i] != 0)
            return 0;
    memcpy(known, given, size < known_size ? size : known_size);
    return 1;
}

/* Fill a versioned result struct of the caller's: as much of it as the caller knows. */
static int write_struct(void *wanted, const void *known, size_t known_size) {
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

static int fail(tbrt_error *error, int status, const char *message) {
    if (error != NULL) {
        error->status = status;
        snprintf(error->message, sizeof error->message, "%s", message);
    }
    return status;
}

/* A file that cannot be mapped; `reason`: the system's words for it, or "". */
static void fail_to_open(tbrt_error *error, int status, const char *name, const char *reason) {
    if (error == NULL)
        return;
    error->status = status;
    tbrt_render_file_error(error->message, sizeof error->message, name, status, NULL, NULL, 0);
    const size_t used = strlen(error->message);
    if (*reason != '\0')
        snprintf(error->message + used, sizeof error->message - used, ": %s", reason);
}

static void *allocate(const tbrt_allocator *allocator, size_t size) {
    return allocator->allocate(allocator->user, size, ALIGNMENT);
}

static void release(const tbrt_allocator *allocator, void *memory, size_t size) {
    if (memory != NULL)
        allocator->release(allocator->user, memory, size);
}

static void say(const tbrt_model *model, const char *message) {
    if (model->log != NULL)
        model->log(model->log_user, message);
}

/* ---------------------------------------------------------------- versions and levels */

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

static int choose_level(const char *name, const tbrt_level **level, tbrt_error *error) {
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
            return fail(error, TBRT_UNKNOWN_ISA, message);
        }
        if (find_level(named[i], i == 0 ? ceiling : NULL) == NULL) {
            snprintf(message, sizeof message, "%s: this machine%s does not offer the instruction-set level '%.64s'", who,
                     i == 0 && ceiling != NULL ? " (or the variable TINYBERT_RT_ISA)" : "", named[i]);
            return fail(error, TBRT_UNSUPPORTED_ISA, message);
        }
    }
    *level = find_level(name, ceiling);
    return TBRT_OK;
}

/* For the Python package: the kernels of a level, or NULL if this machine or this library lacks it. `abi` is what it was made for. */
TBRT_API const void *tbrt_private_kernels(const char *level, const char *abi) {
    if (strcmp(abi, TBRT_KERNEL_ABI) != 0)
        return NULL;
    const tbrt_level *found = find_level(level, NULL);
    return found == NULL ? NULL : &found->kernels;
}

/* ---------------------------------------------------------------- models */

static int open_checked(tbrt_model *model, const char *name, tbrt_error *error) {
    const tbrt_allocator *allocator = &model->allocator;
    const size_t entries_size = TBRT_MAX_TENSORS * sizeof(kernel_tensor_entry);
    model->kernel = allocate(allocator, TBRT_MODEL_BYTES);
    void *entries = allocate(allocator, entries_size);
    int status = TBRT_OUT_OF_MEMORY;
    if (model->kernel == NULL || entries == NULL) {
        fail(error, status, "out of memory while opening the model");
    } else {
        memset(model->kernel, 0, TBRT_MODEL_BYTES);
        kernel_error_info info = {0, -1, -1, 0};
        status = (int)model->level->kernels.model_open(address(model->data), (int64_t)model->size, address(entries), TBRT_MAX_TENSORS,
                                                       model->kernel, &info);
        if (status != TBRT_OK && error != NULL) {
            error->status = status;
            tbrt_render_file_error(error->message, sizeof error->message, name, status, &info, model->data, model->size);
        }
    }
    release(allocator, entries, entries_size);
    return status;
}

static void free_model(tbrt_model *model) {
    const tbrt_allocator allocator = model->allocator;
    tbrt_unmap_file(&model->mapping);
    release(&allocator, model->kernel, TBRT_MODEL_BYTES);
    release(&allocator, model, sizeof *model);
}

/* A model of a path, or (path NULL) of memory. */
static int open_model(const char *path, const void *data, size_t size, const tbrt_model_options *given, tbrt_model **result,
                      tbrt_error *error) {
    fail(error, TBRT_OK, "");
    if (result == NULL)
        return fail(error, TBRT_INVALID_ARGUMENT, "model is NULL: pass the address of a tbrt_model *");
    *result = NULL;
    tbrt_model_options options = TBRT_MODEL_OPTIONS_INIT;
    if (!read_struct(&options, sizeof options, given))
        return fail(error, TBRT_INVALID_ARGUMENT, UNKNOWN_OPTIONS);
    tbrt_allocator allocator = options.allocator;
    if ((allocator.allocate == NULL) != (allocator.release == NULL))
        return fail(error, TBRT_INVALID_ARGUMENT, "options: an allocator needs both allocate and release");
    if (allocator.allocate == NULL)
        allocator = (tbrt_allocator){tbrt_system_allocate, tbrt_system_release, NULL};
    const tbrt_level *level;
    int status = choose_level(options.isa, &level, error);
    if (status != TBRT_OK)
        return status;

    tbrt_model *model = allocate(&allocator, sizeof *model);
    if (model == NULL)
        return fail(error, TBRT_OUT_OF_MEMORY, "out of memory while opening the model");
    memset(model, 0, sizeof *model);
    atomic_init(&model->owners, 1);
    model->level = level;
    model->allocator = allocator;
    model->log = options.log;
    model->log_user = options.log_user;
    const char *name = options.name != NULL ? options.name : path != NULL ? path : "<memory>";
    if (path != NULL) {
        char reason[128] = "";
        status = tbrt_map_file(path, &model->mapping, reason, sizeof reason);
        if (status == TBRT_OUT_OF_MEMORY)
            fail(error, status, "out of memory while opening the model");
        else if (status != TBRT_OK)
            fail_to_open(error, status, name, reason);
        data = model->mapping.data;
        size = model->mapping.size;
    }
    model->data = data;
    model->size = size;
    if (status == TBRT_OK)
        status = open_checked(model, name, error);
    if (status != TBRT_OK) {
        free_model(model);
        return status;
    }
    char line[TBRT_MESSAGE_SIZE];
    snprintf(line, sizeof line, "opened %.200s: %d layers, hidden size %d, %s", name, (int)model->kernel->num_layers,
             (int)model->kernel->hidden_size, level->name);
    say(model, line);
    *result = model;
    return TBRT_OK;
}

int tbrt_model_open(const char *path, const tbrt_model_options *options, tbrt_model **model, tbrt_error *error) {
    if (path == NULL) {
        if (model != NULL)
            *model = NULL;
        return fail(error, TBRT_INVALID_ARGUMENT, "path is NULL");
    }
    return open_model(path, NULL, 0, options, model, error);
}

int tbrt_model_open_memory(const void *data, size_t size, const tbrt_model_options *options, tbrt_model **model, tbrt_error *error) {
    if (data == NULL || size == 0 || size > LONGEST_TEXT) {
        if (model != NULL)
            *model = NULL;
        return fail(error, TBRT_INVALID_ARGUMENT, data == NULL ? "data is NULL" : "size is 0, or larger than memory can be");
    }
    return open_model(NULL, data, size, options, model, error);
}

void tbrt_model_close(tbrt_model *model) {
    if (model != NULL && atomic_fetch_sub(&model->owners, 1) == 1)
        free_model(model);
}

int tbrt_model_get_info(const tbrt_model *model, tbrt_model_info *info) {
    static const char *const poolings[] = {TBRT_POOLING_NAMES};
    if (model == NULL)
        return TBRT_INVALID_ARGUMENT;
    const kernel_model *kernel = model->kernel;
    uint64_t header_size = 0;
    for (int i = 0; i < 8; i++) /* little-endian, the first 8 bytes of the file */
        header_size |= (uint64_t)model->data[i] << (8 * i);
    const tbrt_model_info known = {
        .struct_size = sizeof known,
        .dim = (int32_t)kernel->hidden_size,
        .max_tokens = (int32_t)kernel->max_tokens,
        .max_positions = (int32_t)kernel->max_positions,
        .vocab_size = (int32_t)kernel->vocab_size,
        .num_layers = (int32_t)kernel->num_layers,
        .num_heads = (int32_t)kernel->num_heads,
        .intermediate_size = (int32_t)kernel->intermediate_size,
        .int8_weights = kernel->weight_dtype != 0,
        .normalized = kernel->normalize != 0,
        .pooling = poolings[kernel->pooling],
        .isa = model->level->name,
        .header = (const char *)model->data + 8,
        .header_size = (size_t)header_size,
        .file_size = model->size,
    };
    return write_struct(info, &known, sizeof known);
}

int tbrt_model_piece(const tbrt_model *model, int32_t id, const char **piece, size_t *size) {
    if (model == NULL || piece == NULL || size == NULL)
        return TBRT_INVALID_ARGUMENT;
    const kernel_tokenizer *tokenizer = &model->kernel->tokenizer;
    if (id < 0 || id >= tokenizer->vocab_size)
        return TBRT_TOKEN_ID;
    uint32_t limits[2];
    memcpy(limits, (const unsigned char *)(uintptr_t)tokenizer->piece_offsets + 4 * (size_t)id, sizeof limits);
    *piece = (const char *)(uintptr_t)tokenizer->pieces + limits[0];
    *size = limits[1] - limits[0];
    return TBRT_OK;
}

/* ---------------------------------------------------------------- sessions */

static void serve(void *argument) {
    const struct tbrt_serving *serving = argument;
    tbrt_session *session = serving->session;
    session->model->level->kernels.serve(&session->kernel, serving->worker);
}

static void free_session(tbrt_session *session) {
    tbrt_model *model = session->model;
    const tbrt_allocator *allocator = &model->allocator;
    const size_t texts = 2 * TBRT_GROUP_TEXTS * sizeof(int64_t);
    const int own = session->process == tbrt_process_id(); /* a child of fork() has no helpers to end */
    if (session->started > 0 && own) {
        model->level->kernels.session_close(&session->kernel);
        for (int i = 0; i < session->started; i++)
            tbrt_thread_join(&session->helpers[i]);
    }
    kernel_worker *workers = session->arena == NULL ? NULL : (kernel_worker *)(uintptr_t)session->kernel.locals;
    for (int i = 0; i < session->semaphores && own; i++)
        tbrt_semaphore_destroy((void *)(uintptr_t)workers[i].semaphore);
    release(allocator, session->helpers, (size_t)session->threads * sizeof *session->helpers);
    release(allocator, session->serving, (size_t)session->threads * sizeof *session->serving);
    release(allocator, session->starts, texts);
    release(allocator, session->ends, texts);
    release(allocator, session->truncated, TBRT_GROUP_TEXTS);
    release(allocator, session->arena, session->arena_size);
    release(allocator, session, sizeof *session);
    tbrt_model_close(model);
}

/* The arena and the plan. */
static int place_buffers(tbrt_session *session) {
    const tbrt_allocator *allocator = &session->model->allocator;
    const kernel_functions *kernels = &session->model->level->kernels;
    const size_t texts = 2 * TBRT_GROUP_TEXTS * sizeof(int64_t);
    session->starts = allocate(allocator, texts);
    session->ends = allocate(allocator, texts);
    session->truncated = allocate(allocator, TBRT_GROUP_TEXTS);
    session->helpers = allocate(allocator, (size_t)session->threads * sizeof *session->helpers);
    session->serving = allocate(allocator, (size_t)session->threads * sizeof *session->serving);
    const int64_t size = kernels->session_plan(&session->kernel, session->model->kernel, 0, session->threads);
    session->arena_size = (size_t)size;
    session->arena = allocate(allocator, session->arena_size);
    if (session->starts == NULL || session->ends == NULL || session->truncated == NULL || session->helpers == NULL ||
        session->serving == NULL || session->arena == NULL)
        return 0;
    kernels->session_plan(&session->kernel, session->model->kernel, address(session->arena), session->threads);
    return 1;
}

static int start_helpers(tbrt_session *session) {
    kernel_worker *workers = (kernel_worker *)(uintptr_t)session->kernel.locals;
    for (; session->semaphores < session->threads; session->semaphores++)
        if (tbrt_semaphore_init((void *)(uintptr_t)workers[session->semaphores].semaphore) != 0)
            return 0;
    session->kernel.yield_thread = (int64_t)(uintptr_t)tbrt_yield;
    session->kernel.sleep_thread = (int64_t)(uintptr_t)tbrt_semaphore_wait;
    session->kernel.wake_thread = (int64_t)(uintptr_t)tbrt_semaphore_post;
    for (; session->started < session->threads - 1; session->started++) {
        const int i = session->started;
        session->serving[i] = (struct tbrt_serving){session, i + 1};
        session->helpers[i] = (tbrt_thread){NULL, serve, &session->serving[i]};
        if (tbrt_thread_start(&session->helpers[i]) != 0)
            return 0;
    }
    return 1;
}

int tbrt_session_new(tbrt_model *model, const tbrt_session_options *given, tbrt_session **result, tbrt_error *error) {
    fail(error, TBRT_OK, "");
    if (result != NULL)
        *result = NULL;
    if (model == NULL || result == NULL)
        return fail(error, TBRT_INVALID_ARGUMENT, model == NULL ? "model is NULL" : "session is NULL: pass the address of a tbrt_session *");
    tbrt_session_options options = TBRT_SESSION_OPTIONS_INIT;
    if (!read_struct(&options, sizeof options, given))
        return fail(error, TBRT_INVALID_ARGUMENT, UNKNOWN_OPTIONS);
    char message[TBRT_MESSAGE_SIZE];
    if (options.threads < 0 || options.threads > TBRT_MAX_THREADS) {
        snprintf(message, sizeof message, "threads must be between 1 and %d, or 0 for all CPUs, not %d", TBRT_MAX_THREADS, (int)options.threads);
        return fail(error, TBRT_INVALID_ARGUMENT, message);
    }
    tbrt_session *session = allocate(&model->allocator, sizeof *session);
    if (session == NULL)
        return fail(error, TBRT_OUT_OF_MEMORY, "out of memory while making a session");
    memset(session, 0, sizeof *session);
    atomic_init(&session->busy, 0);
    atomic_fetch_add(&model->owners, 1);
    session->model = model;
    session->process = tbrt_process_id();
    session->threads = options.threads != 0 ? options.threads : tbrt_available_cpus();
    session->report.text = -1;
    if (!place_buffers(session)) {
        free_session(session);
        return fail(error, TBRT_OUT_OF_MEMORY, "out of memory while making a session");
    }
    if (session->threads > 1 && !start_helpers(session)) {
        snprintf(message, sizeof message, "cannot start %d worker threads: make the session with fewer threads", session->threads - 1);
        free_session(session);
        return fail(error, TBRT_THREAD_START, message);
    }
    snprintf(message, sizeof message, "a session of %d threads, %zu bytes", session->threads, session->arena_size);
    say(model, message);
    *result = session;
    return TBRT_OK;
}

void tbrt_session_free(tbrt_session *session) {
    if (session != NULL)
        free_session(session);
}

const char *tbrt_session_message(const tbrt_session *session) {
    return session == NULL ? "session is NULL" : session->message;
}

int tbrt_session_report(const tbrt_session *session, tbrt_report *report) {
    return session == NULL ? TBRT_INVALID_ARGUMENT : write_struct(report, &session->report, sizeof session->report);
}

/* ---------------------------------------------------------------- calls */

static int complain(tbrt_session *session, int status, const char *message) {
    snprintf(session->message, sizeof session->message, "%s", message);
    return status;
}

/* A number that is not between low and high. */
static int complain_of_range(tbrt_session *session, const char *name, int64_t value, int64_t low, int64_t high) {
    snprintf(session->message, sizeof session->message, "%s must be between %lld and %lld, not %lld", name, (long long)low, (long long)high,
             (long long)value);
    return TBRT_INVALID_ARGUMENT;
}

/* Begin a call: the session is the caller's until `leave`. */
static int enter(tbrt_session *session) {
    if (session == NULL)
        return TBRT_INVALID_ARGUMENT;
    if (atomic_exchange(&session->busy, 1) != 0)
        return TBRT_BUSY;
    session->message[0] = '\0';
    if (session->threads > 1 && session->process != tbrt_process_id()) {
        atomic_store(&session->busy, 0);
        return complain(session, TBRT_FORKED,
                        "this session's threads stayed in the parent process: make a session of the same model after fork()");
    }
    return TBRT_OK;
}

static int leave(tbrt_session *session, int status) {
    atomic_store(&session->busy, 0);
    return status;
}

static int complain_of_text(tbrt_session *session, int status, int64_t text, int64_t tokens, int64_t limit) {
    session->report.text = text;
    tbrt_render_text_error(session->message, sizeof session->message, status, text, tokens, limit);
    return status;
}

/* The options of a call and the elements of its vectors. */
static int read_encode_options(tbrt_session *session, const tbrt_encode_options *given, tbrt_encode_options *options, size_t count,
                               size_t vectors_size) {
    const kernel_model *model = session->model->kernel;
    *options = (tbrt_encode_options)TBRT_ENCODE_OPTIONS_INIT;
    session->report = (tbrt_report)TBRT_REPORT_INIT;
    session->report.text = -1;
    if (!read_struct(options, sizeof *options, given))
        return complain(session, TBRT_INVALID_ARGUMENT, UNKNOWN_OPTIONS);
    if (options->dim == 0)
        options->dim = (int32_t)model->hidden_size;
    if (options->max_tokens == 0)
        options->max_tokens = (int32_t)model->max_tokens;
    if (options->dim < 1 || options->dim > model->hidden_size)
        return complain_of_range(session, "dim", options->dim, 1, model->hidden_size);
    if (options->max_tokens < SMALLEST_LIMIT || options->max_tokens > model->max_positions)
        return complain_of_range(session, "max_tokens", options->max_tokens, SMALLEST_LIMIT, model->max_positions);
    if (options->truncation < 0 || options->truncation >= TBRT_TRUNCATION_COUNT)
        return complain_of_range(session, "truncation", options->truncation, 0, TBRT_TRUNCATION_COUNT - 1);
    if (options->pairs != 0 && options->pairs != 1)
        return complain_of_range(session, "pairs", options->pairs, 0, 1);
    if (count > SIZE_MAX / 64 / (size_t)options->dim || vectors_size < count * (size_t)options->dim) {
        snprintf(session->message, sizeof session->message, "vectors_size is %zu floats; %zu texts of %d elements need more room",
                 vectors_size, count, (int)options->dim);
        return TBRT_BUFFER_TOO_SMALL;
    }
    return TBRT_OK;
}

/* Where the next texts lie, as the kernels want it: relative to the first of them. */
static int place_texts(tbrt_session *session, const char *const *texts, const size_t *sizes, size_t first, size_t count, size_t step) {
    int64_t base = 0;
    for (size_t i = 0; i < count * step; i++) {
        const size_t at = first * step + i;
        const char *text = texts[at];
        size_t size = sizes == NULL ? TBRT_NUL_TERMINATED : sizes[at];
        if (text == NULL && size != 0) {
            session->report.text = (int64_t)(at / step);
            snprintf(session->message, sizeof session->message, "text %zu is NULL", at / step);
            return TBRT_INVALID_ARGUMENT;
        }
        if (size == TBRT_NUL_TERMINATED)
            size = strlen(text);
        if (size > LONGEST_TEXT) {
            session->report.text = (int64_t)(at / step);
            snprintf(session->message, sizeof session->message, "the size of text %zu is larger than memory can be", at / step);
            return TBRT_INVALID_ARGUMENT;
        }
        const int64_t start = text == NULL ? base : address(text);
        if (base == 0)
            base = start != 0 ? start : address(session);
        session->starts[i] = start == 0 ? 0 : start - base;
        session->ends[i] = session->starts[i] + (int64_t)size;
    }
    session->request.texts = base;
    return TBRT_OK;
}

/* Run a request's texts, group by group. `texts` is NULL where ids are given. */
static int run(tbrt_session *session, const tbrt_encode_options *options, const char *const *texts, const size_t *sizes, size_t count) {
    kernel_request *request = &session->request;
    const kernel_functions *kernels = &session->model->level->kernels;
    const size_t step = options->pairs ? 2 : 1;
    const int64_t out = request->out, id_offsets = request->id_offsets;
    size_t done = 0;
    while (done < count) {
        const size_t left = count - done, part = left < TBRT_GROUP_TEXTS ? left : TBRT_GROUP_TEXTS;
        int status = TBRT_OK;
        if (texts != NULL) {
            status = place_texts(session, texts, sizes, done, part, step);
            if (status != TBRT_OK)
                return status;
            request->text_starts = address(session->starts);
            request->text_ends = address(session->ends);
            request->truncated = address(session->truncated);
            request->token_counts = options->token_counts == NULL ? 0 : address(options->token_counts + done);
            request->ids = request->types = 0;
        } else {
            request->id_offsets = id_offsets + 8 * (int64_t)done;
        }
        request->n_texts = (int64_t)part;
        request->out = out == 0 ? 0 : out + 4 * (int64_t)(done * (size_t)options->dim);
        status = (int)kernels->encode(&session->kernel, request);
        const size_t finished = request->done > 0 ? (size_t)request->done : 0;
        for (size_t i = 0; i < finished && texts != NULL; i++) {
            session->report.truncated += session->truncated[i];
            if (options->truncated != NULL)
                options->truncated[done + i] = session->truncated[i];
        }
        session->report.done = done + finished;
        if (status != TBRT_OK) {
            const int64_t text = request->item < 0 ? (int64_t)done : (int64_t)done + request->item;
            int64_t tokens = 0, limit = options->max_tokens;
            if (texts == NULL) {
                int64_t limits[2];
                memcpy(limits, (const void *)(uintptr_t)(id_offsets + 8 * text), sizeof limits);
                tokens = limits[1] - limits[0];
                limit = session->model->kernel->max_positions;
            } else {
                tokens = ((const kernel_worker *)(uintptr_t)session->kernel.locals)[0].info.total;
            }
            return complain_of_text(session, status, text, tokens, limit);
        }
        if (finished == 0)
            return complain(session, TBRT_ERROR, "no progress was made: this is a fault of the library");
        done += finished;
        if (options->progress != NULL && options->progress(options->progress_user, done, count) != 0 && done < count) {
            snprintf(session->message, sizeof session->message, "cancelled by the progress callback after %zu texts", done);
            return TBRT_CANCELLED;
        }
    }
    return TBRT_OK;
}

int tbrt_encode(tbrt_session *session, const char *const *texts, const size_t *sizes, size_t count, const tbrt_encode_options *given,
                float *vectors, size_t vectors_size) {
    int status = enter(session);
    if (status != TBRT_OK)
        return status;
    tbrt_encode_options options;
    status = read_encode_options(session, given, &options, count, vectors_size);
    if (status != TBRT_OK || count == 0)
        return leave(session, status);
    if (texts == NULL || vectors == NULL)
        return leave(session, complain(session, TBRT_INVALID_ARGUMENT, texts == NULL ? "texts is NULL" : "vectors is NULL"));
    memset(&session->request, 0, sizeof session->request);
    session->request.pairs = options.pairs;
    session->request.truncation = options.truncation;
    session->request.max_tokens = options.max_tokens;
    session->request.out = address(vectors);
    session->request.dim = options.dim;
    return leave(session, run(session, &options, texts, sizes, count));
}

/* tbrt_encode_ids or tbrt_hidden_states: texts that are tokenized already. */
static int encode_ids(tbrt_session *session, const int32_t *ids, const uint8_t *types, const int64_t *offsets, size_t count,
                      const tbrt_encode_options *options, float *vectors, float *hidden, size_t hidden_size) {
    if (ids == NULL || offsets == NULL || (vectors == NULL && hidden == NULL))
        return complain(session, TBRT_INVALID_ARGUMENT,
                        ids == NULL ? "ids is NULL" : offsets == NULL ? "offsets is NULL" : "the results have no place: NULL");
    const int64_t total = offsets[count], width = session->model->kernel->hidden_size;
    if (offsets[0] != 0)
        return complain(session, TBRT_INVALID_ARGUMENT, "offsets must begin with 0");
    if (hidden != NULL && total > 0 && (uint64_t)total * (uint64_t)width > hidden_size) {
        snprintf(session->message, sizeof session->message, "hidden_size is %zu floats; %lld tokens of %lld elements need more room",
                 hidden_size, (long long)total, (long long)width);
        return TBRT_BUFFER_TOO_SMALL;
    }
    memset(&session->request, 0, sizeof session->request);
    session->request.ids = address(ids);
    session->request.n_ids = total;
    session->request.types = types == NULL ? 0 : address(types);
    session->request.id_offsets = address(offsets);
    session->request.out = vectors == NULL ? 0 : address(vectors);
    session->request.dim = options->dim;
    session->request.hidden = hidden == NULL ? 0 : address(hidden);
    return run(session, options, NULL, NULL, count);
}

int tbrt_encode_ids(tbrt_session *session, const int32_t *ids, const uint8_t *types, const int64_t *offsets, size_t count,
                    const tbrt_encode_options *given, float *vectors, size_t vectors_size) {
    int status = enter(session);
    if (status != TBRT_OK)
        return status;
    tbrt_encode_options options;
    status = read_encode_options(session, given, &options, count, vectors_size);
    if (status == TBRT_OK && options.pairs != 0)
        status = complain(session, TBRT_INVALID_ARGUMENT, "pairs: ids are given, so that types say what belongs to which text");
    if (status != TBRT_OK || count == 0)
        return leave(session, status);
    return leave(session, encode_ids(session, ids, types, offsets, count, &options, vectors, NULL, 0));
}

int tbrt_hidden_states(tbrt_session *session, const int32_t *ids, const uint8_t *types, const int64_t *offsets, size_t count, float *hidden,
                       size_t hidden_size) {
    int status = enter(session);
    if (status != TBRT_OK)
        return status;
    tbrt_encode_options options;
    status = read_encode_options(session, NULL, &options, 0, 0);
    if (status != TBRT_OK || count == 0)
        return leave(session, status);
    return leave(session, encode_ids(session, ids, types, offsets, count, &options, NULL, hidden, hidden_size));
}

/* One text into ids and types that hold `limit` of each. */
static int tokenize_into(tbrt_session *session, const char *text, size_t size, const char *pair, size_t pair_size, int64_t limit,
                         int32_t truncation, int32_t *ids, uint8_t *types, kernel_tokenize_info *info) {
    kernel_tokenize_call call;
    memset(&call, 0, sizeof call);
    call.tokenizer = address(&session->model->kernel->tokenizer);
    call.max_tokens = limit;
    call.truncation = truncation;
    call.ids = address(ids);
    call.types = address(types);
    call.scratch = ((const kernel_worker *)(uintptr_t)session->kernel.locals)[0].text;
    const int status = (int)session->model->level->kernels.tokenize(&call, text, (int64_t)size, pair, pair == NULL ? -1 : (int64_t)pair_size);
    *info = call.info;
    return status;
}

int tbrt_tokenize(tbrt_session *session, const char *text, size_t size, const char *pair, size_t pair_size,
                  const tbrt_tokenize_options *given, int32_t *ids, uint8_t *types, size_t capacity, tbrt_tokens *tokens) {
    int status = enter(session);
    if (status != TBRT_OK)
        return status;
    tbrt_tokenize_options options = TBRT_TOKENIZE_OPTIONS_INIT;
    if (!read_struct(&options, sizeof options, given))
        return leave(session, complain(session, TBRT_INVALID_ARGUMENT, UNKNOWN_OPTIONS));
    if (options.max_tokens != 0 && options.max_tokens < SMALLEST_LIMIT)
        return leave(session, complain_of_range(session, "max_tokens", options.max_tokens, SMALLEST_LIMIT, INT32_MAX));
    if (options.truncation < 0 || options.truncation >= TBRT_TRUNCATION_COUNT)
        return leave(session, complain_of_range(session, "truncation", options.truncation, 0, TBRT_TRUNCATION_COUNT - 1));
    if ((text == NULL && size != 0) || (ids == NULL && capacity != 0))
        return leave(session, complain(session, TBRT_INVALID_ARGUMENT, ids == NULL && capacity != 0 ? "ids is NULL" : "text is NULL"));
    if (size == TBRT_NUL_TERMINATED)
        size = strlen(text);
    if (pair == NULL)
        pair_size = 0;
    else if (pair_size == TBRT_NUL_TERMINATED)
        pair_size = strlen(pair);
    if (size > LONGEST_TEXT || pair_size > LONGEST_TEXT)
        return leave(session, complain(session, TBRT_INVALID_ARGUMENT, "the size of the text is larger than memory can be"));

    /* A byte is at most one token. */
    const int64_t most = (int64_t)size + (int64_t)pair_size + SMALLEST_LIMIT;
    const int64_t wanted = options.max_tokens != 0 && options.max_tokens < most ? options.max_tokens : most;
    const int fits = capacity >= (size_t)wanted;
    /* Where the ids may not fit, they are counted first, and written only if they do. */
    int32_t few_ids[SMALLEST_LIMIT];
    uint8_t few_types[SMALLEST_LIMIT];
    kernel_tokenize_info info = {0, 0, 0};
    int64_t limit = wanted;
    if (!fits) {
        tokenize_into(session, text, size, pair, pair_size, SMALLEST_LIMIT, TBRT_TRUNCATE, few_ids, few_types, &info);
        limit = info.total < wanted ? info.total : wanted;
        if (limit < SMALLEST_LIMIT)
            limit = SMALLEST_LIMIT;
    }
    if (info.total > wanted && options.truncation == TBRT_ERROR_IF_TOO_LONG) {
        status = TBRT_TEXT_TOO_LONG;
    } else if (!fits && (int64_t)capacity < (info.total < wanted ? info.total : wanted)) {
        info.count = info.total < wanted ? info.total : wanted;
        info.truncated = info.total > wanted;
        status = TBRT_BUFFER_TOO_SMALL;
        snprintf(session->message, sizeof session->message, "there is room for %zu token ids, %lld are needed", capacity,
                 (long long)info.count);
    } else {
        const size_t room = (size_t)limit;
        const int small = capacity < SMALLEST_LIMIT;
        uint8_t *own = types == NULL && !small ? allocate(&session->model->allocator, room) : NULL;
        if (types == NULL && !small && own == NULL)
            return leave(session, complain(session, TBRT_OUT_OF_MEMORY, "out of memory while tokenizing"));
        status = tokenize_into(session, text, size, pair, pair_size, limit, options.truncation, small ? few_ids : ids,
                               small ? few_types : types == NULL ? own : types, &info);
        if (small && status == TBRT_OK) {
            memcpy(ids, few_ids, (size_t)info.count * sizeof *ids);
            if (types != NULL)
                memcpy(types, few_types, (size_t)info.count);
        }
        release(&session->model->allocator, own, room);
    }
    if (status != TBRT_OK && status != TBRT_BUFFER_TOO_SMALL)
        complain_of_text(session, status, 0, info.total, wanted);
    if (tokens != NULL)
        *tokens = (tbrt_tokens){(size_t)info.count, (size_t)info.total, info.truncated != 0};
    return leave(session, status);
}
