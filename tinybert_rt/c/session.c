/* Sessions: memory, threads, and who is in one. */
#include "internal.h"

#include "messages.h"

#include <stdio.h>
#include <string.h>

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
    tbrt_release(allocator, session->helpers, (size_t)session->threads * sizeof *session->helpers);
    tbrt_release(allocator, session->serving, (size_t)session->threads * sizeof *session->serving);
    tbrt_release(allocator, session->starts, texts);
    tbrt_release(allocator, session->ends, texts);
    tbrt_release(allocator, session->truncated, TBRT_GROUP_TEXTS);
    tbrt_release(allocator, session->arena, session->arena_size);
    tbrt_release(allocator, session, sizeof *session);
    tbrt_model_close(model);
}

/* The arena and the plan. */
static int place_buffers(tbrt_session *session) {
    const tbrt_allocator *allocator = &session->model->allocator;
    const kernel_functions *kernels = &session->model->level->kernels;
    const size_t texts = 2 * TBRT_GROUP_TEXTS * sizeof(int64_t);
    session->starts = tbrt_allocate(allocator, texts);
    session->ends = tbrt_allocate(allocator, texts);
    session->truncated = tbrt_allocate(allocator, TBRT_GROUP_TEXTS);
    session->helpers = tbrt_allocate(allocator, (size_t)session->threads * sizeof *session->helpers);
    session->serving = tbrt_allocate(allocator, (size_t)session->threads * sizeof *session->serving);
    const int64_t size = kernels->session_plan(&session->kernel, session->model->kernel, 0, session->threads);
    session->arena_size = (size_t)size;
    session->arena = tbrt_allocate(allocator, session->arena_size);
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
    tbrt_fail(error, TBRT_OK, "");
    if (result != NULL)
        *result = NULL;
    if (model == NULL || result == NULL)
        return tbrt_fail(error, TBRT_INVALID_ARGUMENT, model == NULL ? "model is NULL" : "session is NULL: pass the address of a tbrt_session *");
    tbrt_session_options options = TBRT_SESSION_OPTIONS_INIT;
    if (!tbrt_read_struct(&options, sizeof options, given))
        return tbrt_fail(error, TBRT_INVALID_ARGUMENT, UNKNOWN_OPTIONS);
    char message[TBRT_MESSAGE_SIZE];
    if (options.threads < 0 || options.threads > TBRT_MAX_THREADS) {
        snprintf(message, sizeof message, "threads must be between 1 and %d, or 0 for all CPUs, not %d", TBRT_MAX_THREADS, (int)options.threads);
        return tbrt_fail(error, TBRT_INVALID_ARGUMENT, message);
    }
    if (options.reserved != 0)
        return tbrt_fail(error, TBRT_INVALID_ARGUMENT, "reserved must be 0");
    tbrt_session *session = tbrt_allocate(&model->allocator, sizeof *session);
    if (session == NULL)
        return tbrt_fail(error, TBRT_OUT_OF_MEMORY, "out of memory while making a session");
    memset(session, 0, sizeof *session);
    atomic_init(&session->busy, 0);
    atomic_fetch_add(&model->owners, 1);
    session->model = model;
    session->process = tbrt_process_id();
    session->threads = options.threads != 0 ? options.threads : tbrt_available_cpus();
    session->report.text = -1;
    if (!place_buffers(session)) {
        free_session(session);
        return tbrt_fail(error, TBRT_OUT_OF_MEMORY, "out of memory while making a session");
    }
    if (session->threads > 1 && !start_helpers(session)) {
        snprintf(message, sizeof message, "cannot start %d worker threads: make the session with fewer threads", session->threads - 1);
        free_session(session);
        return tbrt_fail(error, TBRT_THREAD_START, message);
    }
    snprintf(message, sizeof message, "a session of %d threads, %zu bytes", session->threads, session->arena_size);
    tbrt_say(model, message);
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
    return session == NULL ? TBRT_INVALID_ARGUMENT : tbrt_write_struct(report, &session->report, sizeof session->report);
}

int tbrt_complain(tbrt_session *session, int status, const char *message) {
    snprintf(session->message, sizeof session->message, "%s", message);
    return status;
}

int tbrt_complain_of_range(tbrt_session *session, const char *name, int64_t value, int64_t low, int64_t high) {
    snprintf(session->message, sizeof session->message, "%s must be between %lld and %lld, not %lld", name, (long long)low, (long long)high,
             (long long)value);
    return TBRT_INVALID_ARGUMENT;
}

int tbrt_enter(tbrt_session *session) {
    if (session == NULL)
        return TBRT_INVALID_ARGUMENT;
    const int64_t process = tbrt_process_id();
    const int inherited = session->process != process;
    if (atomic_exchange(&session->busy, 1) != 0) /* in a child: its parent was in a call when it forked, whose thread is not here */
        return inherited ? TBRT_FORKED : TBRT_BUSY;
    session->message[0] = '\0';
    if (session->threads > 1 && inherited) {
        tbrt_complain(session, TBRT_FORKED,
                      "this session's threads stayed in the parent process: make a session of the same model after fork()");
        return tbrt_leave(session, TBRT_FORKED);
    }
    session->process = process;
    return TBRT_OK;
}

int tbrt_leave(tbrt_session *session, int status) {
    atomic_store(&session->busy, 0);
    return status;
}

int tbrt_complain_of_text(tbrt_session *session, int status, int64_t text, int64_t tokens, int64_t limit) {
    tbrt_render_text_error(session->message, sizeof session->message, status, text, tokens, limit);
    return status;
}
