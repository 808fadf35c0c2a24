/* test_api MODEL: the public functions, their errors, failing allocations, fork and threads. Prints what does not hold. */
#include <tinybert_rt.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int failures;

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            printf("line %d: %s\n", __LINE__, #condition); \
            failures++; \
        } \
    } while (0)

#include "inside.h"

#define COUNT 5
static const char *const TEXTS[COUNT] = {"the cat sat on the mat", "", "a dog", "\xff\xfe not utf-8 \xc3", "one two three four five six"};

/* An allocator that fails at one call, and counts what is alive. */
typedef struct {
    long calls, fails_at, alive;
} counting;

static void *counting_allocate(void *user, size_t size, size_t alignment) {
    counting *state = user;
    void *memory = NULL;
    if (++state->calls == state->fails_at || posix_memalign(&memory, alignment, size) != 0)
        return NULL;
    state->alive++;
    memset(memory, 0xff, size); /* as floats: NaN; what memory held before must not matter */
    return memory;
}

static void counting_release(void *user, void *memory, size_t size) {
    (void)size;
    ((counting *)user)->alive--;
    free(memory);
}

static void count_lines(void *user, const char *message) {
    CHECK(strlen(message) > 0);
    ++*(int *)user;
}

static int stop_at_once(void *user, size_t done, size_t total) {
    ++*(int *)user;
    CHECK(done <= total);
    return 1;
}

static void *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return NULL;
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    void *data = malloc(*size);
    if (data == NULL || fread(data, 1, *size, file) != *size)
        abort();
    fclose(file);
    return data;
}

static void test_opening(const char *path) {
    tbrt_model *model = (tbrt_model *)1;
    tbrt_error error;
    CHECK(tbrt_model_open("/nowhere/model.tbrt", NULL, &model, &error) == TBRT_MODEL_NOT_FOUND && model == NULL);
    CHECK(strstr(error.message, "/nowhere/model.tbrt") != NULL && error.status == TBRT_MODEL_NOT_FOUND);
    CHECK(tbrt_model_open("/", NULL, &model, &error) == TBRT_UNREADABLE_FILE && strstr(error.message, "directory") != NULL);
    CHECK(tbrt_model_open("/dev/null", NULL, &model, NULL) == TBRT_UNREADABLE_FILE);
    CHECK(tbrt_model_open(NULL, NULL, &model, NULL) == TBRT_INVALID_ARGUMENT);
    CHECK(tbrt_model_open("", NULL, &model, NULL) == TBRT_INVALID_ARGUMENT);
    CHECK(tbrt_model_open("/dev/null/model.tbrt", NULL, &model, &error) == TBRT_MODEL_NOT_FOUND);
    CHECK(tbrt_model_open_memory("", 0, NULL, &model, &error) == TBRT_EMPTY_FILE);
    char pipe_name[64], long_name[2000];
    snprintf(pipe_name, sizeof pipe_name, "/tmp/tbrt-test-%d", (int)getpid());
    CHECK(mkfifo(pipe_name, 0600) == 0 && tbrt_model_open(pipe_name, NULL, &model, &error) == TBRT_UNREADABLE_FILE);
    unlink(pipe_name);
    memset(long_name, 'x', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = '\0';
    tbrt_model_open(long_name, NULL, &model, &error);
    CHECK(strstr(error.message, "xx: ") != NULL);
    CHECK(tbrt_model_open(path, NULL, NULL, &error) == TBRT_INVALID_ARGUMENT);
    CHECK(tbrt_model_open_memory("abc", 3, NULL, &model, &error) != TBRT_OK && strstr(error.message, "<memory>") != NULL);
    CHECK(tbrt_model_open_memory(NULL, 3, NULL, &model, NULL) == TBRT_INVALID_ARGUMENT);
    tbrt_model_options options = TBRT_MODEL_OPTIONS_INIT;
    options.isa = "abacus";
    CHECK(tbrt_model_open(path, &options, &model, &error) == TBRT_UNKNOWN_ISA && strstr(error.message, "abacus") != NULL);
    options.isa = NULL;
    options.struct_size = 0;
    CHECK(tbrt_model_open(path, &options, &model, &error) == TBRT_INVALID_ARGUMENT);
    int lines = 0;
    options = (tbrt_model_options)TBRT_MODEL_OPTIONS_INIT;
    options.log = count_lines;
    options.log_user = &lines;
    for (size_t i = 0; tbrt_isa(i) != NULL; i++) {
        options.isa = tbrt_isa(i);
        CHECK(tbrt_model_open(path, &options, &model, &error) == TBRT_OK && error.status == TBRT_OK && error.message[0] == '\0');
        tbrt_model_info info = TBRT_MODEL_INFO_INIT;
        CHECK(tbrt_model_get_info(model, &info) == TBRT_OK && strcmp(info.isa, options.isa) == 0 && info.dim > 0);
        CHECK(strcmp(info.architecture, "bert") == 0 && strcmp(info.pooling, "mean") == 0);
        CHECK(info.header[0] == '{' && info.header_size < info.file_size);
        const char *piece;
        size_t size;
        CHECK(tbrt_model_piece(model, 0, &piece, &size) == TBRT_OK && size > 0);
        CHECK(tbrt_model_piece(model, info.vocab_size, &piece, &size) == TBRT_TOKEN_ID);
        CHECK(tbrt_model_piece(model, -1, &piece, &size) == TBRT_TOKEN_ID);
        tbrt_model_close(model);
    }
    CHECK(lines > 0);
    CHECK(strcmp(tbrt_version(), TBRT_VERSION) == 0 && tbrt_abi_version() == TBRT_ABI_VERSION);
    CHECK(strlen(tbrt_status_text(TBRT_OK)) > 0 && strlen(tbrt_status_text(-5)) > 0 && strlen(tbrt_status_text(TBRT_BUSY)) > 0);
    tbrt_model_close(NULL);
    tbrt_session_free(NULL);
}

static void test_calls(tbrt_model *model, size_t dim) {
    tbrt_session *session, *two;
    tbrt_session_options threads = TBRT_SESSION_OPTIONS_INIT;
    tbrt_error error;
    threads.threads = 257;
    CHECK(tbrt_session_new(model, &threads, &session, &error) == TBRT_INVALID_ARGUMENT && session == NULL);
    threads = (tbrt_session_options){sizeof threads, 1, 1};
    CHECK(tbrt_session_new(model, &threads, &session, &error) == TBRT_INVALID_ARGUMENT && session == NULL);
    threads.reserved = 0;
    CHECK(tbrt_session_new(model, &threads, &session, &error) == TBRT_OK);
    threads.threads = 3;
    CHECK(tbrt_session_new(model, &threads, &two, &error) == TBRT_OK);
    float *all = calloc(COUNT * dim, sizeof *all), *one = calloc(COUNT * dim, sizeof *one);
    CHECK(tbrt_encode(session, TEXTS, NULL, COUNT, NULL, all, COUNT * dim) == TBRT_OK);
    CHECK(tbrt_encode(two, TEXTS, NULL, COUNT, NULL, one, COUNT * dim) == TBRT_OK && memcmp(all, one, COUNT * dim * 4) == 0);
    for (size_t i = 0; i < COUNT; i++) {
        const size_t size = strlen(TEXTS[i]);
        CHECK(tbrt_encode(two, &TEXTS[i], &size, 1, NULL, one, dim) == TBRT_OK && memcmp(all + i * dim, one, dim * 4) == 0);
    }
    CHECK(tbrt_encode(session, TEXTS, NULL, 0, NULL, NULL, 0) == TBRT_OK);
    CHECK(tbrt_encode(session, NULL, NULL, 1, NULL, one, dim) == TBRT_INVALID_ARGUMENT && *tbrt_session_message(session) != '\0');
    CHECK(tbrt_encode(session, TEXTS, NULL, 1, NULL, NULL, dim) == TBRT_INVALID_ARGUMENT);
    CHECK(tbrt_encode(NULL, TEXTS, NULL, 1, NULL, one, dim) == TBRT_INVALID_ARGUMENT);
    CHECK(tbrt_encode(session, TEXTS, NULL, COUNT, NULL, one, COUNT * dim - 1) == TBRT_BUFFER_TOO_SMALL);
    CHECK(tbrt_encode(session, TEXTS, NULL, (size_t)-1, NULL, one, dim) == TBRT_BUFFER_TOO_SMALL);
    const char *null_texts[2] = {"a", NULL};
    CHECK(tbrt_encode(session, null_texts, NULL, 2, NULL, one, 2 * dim) == TBRT_INVALID_ARGUMENT);
    const size_t huge[1] = {(size_t)-2};
    CHECK(tbrt_encode(session, TEXTS, huge, 1, NULL, one, dim) == TBRT_INVALID_ARGUMENT);

    tbrt_encode_options options = TBRT_ENCODE_OPTIONS_INIT;
    tbrt_report report = TBRT_REPORT_INIT;
    int32_t counts[COUNT];
    uint8_t truncated[COUNT];
    options.max_tokens = 4;
    options.token_counts = counts;
    options.truncated = truncated;
    CHECK(tbrt_encode(session, TEXTS, NULL, COUNT, &options, one, COUNT * dim) == TBRT_OK);
    CHECK(tbrt_session_report(session, &report) == TBRT_OK && report.done == COUNT && report.truncated > 0 && report.text == -1);
    CHECK(truncated[0] == 1 && truncated[1] == 0 && counts[0] > 4 && counts[1] == 2);
    options.truncation = TBRT_ERROR_IF_TOO_LONG;
    CHECK(tbrt_encode(session, TEXTS + 1, NULL, COUNT - 1, &options, one, COUNT * dim) == TBRT_TEXT_TOO_LONG);
    CHECK(tbrt_session_report(session, &report) == TBRT_OK && report.text >= 1 && strstr(tbrt_session_message(session), "text") != NULL);
    options = (tbrt_encode_options)TBRT_ENCODE_OPTIONS_INIT;
    for (int32_t bad = -1; bad < 2; bad += 2) {
        options.dim = bad < 0 ? -1 : (int32_t)dim + 1;
        CHECK(tbrt_encode(session, TEXTS, NULL, 1, &options, one, COUNT * dim) == TBRT_INVALID_ARGUMENT);
    }
    options.dim = 0;
    options.max_tokens = 1 << 30;
    CHECK(tbrt_encode(session, TEXTS, NULL, 1, &options, one, dim) == TBRT_INVALID_ARGUMENT);
    options = (tbrt_encode_options)TBRT_ENCODE_OPTIONS_INIT;
    options.pairs = 1;
    CHECK(tbrt_encode(session, TEXTS, NULL, 2, &options, one, 2 * dim) == TBRT_OK && memcmp(one, all, dim * 4) != 0);
    options.pairs = 0;
    int calls = 0;
    options.progress = stop_at_once;
    options.progress_user = &calls;
    enum { MANY = 2500 };
    const char **many = malloc(MANY * sizeof *many);
    float *vectors = malloc(MANY * dim * sizeof *vectors);
    for (size_t i = 0; i < MANY; i++)
        many[i] = TEXTS[i % COUNT];
    CHECK(tbrt_encode(two, many, NULL, MANY, &options, vectors, MANY * dim) == TBRT_CANCELLED && calls == 1);
    CHECK(tbrt_session_report(two, &report) == TBRT_OK && report.done > 0 && report.done < MANY);
    options.progress = NULL;
    CHECK(tbrt_encode(two, many, NULL, MANY, &options, vectors, MANY * dim) == TBRT_OK);
    for (size_t i = 0; i < MANY; i++)
        CHECK(memcmp(vectors + i * dim, all + i % COUNT * dim, dim * 4) == 0);
    free(vectors);
    free(many);

    /* tokens, and the same vector from them */
    int32_t ids[64];
    uint8_t types[64];
    tbrt_tokens tokens;
    CHECK(tbrt_tokenize(session, TEXTS[0], TBRT_NUL_TERMINATED, NULL, 0, NULL, NULL, NULL, 0, &tokens) == TBRT_BUFFER_TOO_SMALL);
    const size_t needed = tokens.count;
    CHECK(needed > 4 && tokens.total == needed);
    for (size_t capacity = 0; capacity < 64; capacity++) {
        memset(ids, 0x55, sizeof ids);
        const int status = tbrt_tokenize(session, TEXTS[0], TBRT_NUL_TERMINATED, NULL, 0, NULL, capacity ? ids : NULL, NULL, capacity, &tokens);
        CHECK(status == (capacity < needed ? TBRT_BUFFER_TOO_SMALL : TBRT_OK) && tokens.count == needed);
        CHECK(ids[capacity < needed ? 0 : needed] == 0x55555555);
    }
    const int64_t offsets[2] = {0, (int64_t)needed};
    CHECK(tbrt_encode_ids(session, ids, NULL, offsets, 1, NULL, one, dim) == TBRT_OK && memcmp(one, all, dim * 4) == 0);
    float *hidden = malloc(needed * dim * sizeof *hidden);
    CHECK(tbrt_hidden_states(session, ids, NULL, offsets, 1, hidden, needed * dim) == TBRT_OK);
    CHECK(tbrt_hidden_states(session, ids, NULL, offsets, 1, hidden, needed * dim - 1) == TBRT_BUFFER_TOO_SMALL);
    free(hidden);
    ids[1] = 1 << 30;
    CHECK(tbrt_encode_ids(session, ids, NULL, offsets, 1, NULL, one, dim) == TBRT_TOKEN_ID);
    const int64_t bad_offsets[2] = {1, 3};
    CHECK(tbrt_encode_ids(session, ids, NULL, bad_offsets, 1, NULL, one, dim) == TBRT_INVALID_ARGUMENT);
    tbrt_tokenize_options limit = TBRT_TOKENIZE_OPTIONS_INIT;
    limit.max_tokens = 4;
    CHECK(tbrt_tokenize(session, TEXTS[0], 22, TEXTS[4], 27, &limit, ids, types, 64, &tokens) == TBRT_OK && tokens.count == 4);
    CHECK(tokens.truncated == 1 && types[0] == 0);
    limit.truncation = TBRT_ERROR_IF_TOO_LONG;
    CHECK(tbrt_tokenize(session, TEXTS[0], 22, NULL, 0, &limit, ids, types, 64, &tokens) == TBRT_TEXT_TOO_LONG);
    CHECK(tbrt_tokenize(session, "", 0, NULL, 0, NULL, ids, types, 2, &tokens) == TBRT_OK && tokens.count == 2);

    /* fork: a session of one thread works in the child, one with threads says that it cannot */
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        const int alone = tbrt_encode(session, TEXTS, NULL, COUNT, NULL, one, COUNT * dim) == TBRT_OK && memcmp(one, all, COUNT * dim * 4) == 0;
        const int refused = tbrt_encode(two, TEXTS, NULL, 1, NULL, one, dim) == TBRT_FORKED && *tbrt_session_message(two) != '\0';
        tbrt_session *fresh = NULL;
#if defined __SANITIZE_THREAD__ /* cannot follow threads that a forked child starts */
        threads.threads = 1;
#endif
        const int made = tbrt_session_new(model, &threads, &fresh, NULL) == TBRT_OK &&
                         tbrt_encode(fresh, TEXTS, NULL, COUNT, NULL, one, COUNT * dim) == TBRT_OK && memcmp(one, all, COUNT * dim * 4) == 0;
        tbrt_session_free(fresh);
        tbrt_session_free(two);
        _exit(alone && refused && made ? 0 : 1);
    }
    int status = 1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    free(one);
    free(all);
    tbrt_session_free(two);
    tbrt_session_free(session);
}

static void test_failing_allocations(const char *path, const void *data, size_t size) {
    float expected[COUNT * 64]; /* the tests' model has 64 elements */
    tbrt_model *usual = NULL;
    tbrt_session *usual_session = NULL;
    CHECK(tbrt_model_open(path, NULL, &usual, NULL) == TBRT_OK && tbrt_session_new(usual, NULL, &usual_session, NULL) == TBRT_OK);
    CHECK(tbrt_encode(usual_session, TEXTS, NULL, COUNT, NULL, expected, COUNT * 64) == TBRT_OK);
    tbrt_session_free(usual_session);
    tbrt_model_close(usual);
    for (int from_memory = 0; from_memory < 2; from_memory++) {
        for (long at = 1, failed = 1; failed; at++) {
            counting state = {0, at, 0};
            tbrt_model_options options = TBRT_MODEL_OPTIONS_INIT;
            options.allocator = (tbrt_allocator){counting_allocate, counting_release, &state};
            tbrt_session_options threads = TBRT_SESSION_OPTIONS_INIT;
            threads.threads = 2;
            tbrt_model *model = NULL;
            tbrt_session *session = NULL;
            tbrt_error error;
            int status = from_memory ? tbrt_model_open_memory(data, size, &options, &model, &error)
                                     : tbrt_model_open(path, &options, &model, &error);
            if (status == TBRT_OK)
                status = tbrt_session_new(model, &threads, &session, &error);
            if (status == TBRT_OK) {
                int32_t ids[64];
                status = tbrt_tokenize(session, TEXTS[0], TBRT_NUL_TERMINATED, NULL, 0, NULL, ids, NULL, 64, NULL);
            }
            failed = status != TBRT_OK;
            CHECK(!failed || (status == TBRT_OUT_OF_MEMORY && at <= state.calls));
            const long before = state.calls;
            if (!failed) {
                float vectors[COUNT * 64];
                CHECK(tbrt_encode(session, TEXTS, NULL, COUNT, NULL, vectors, COUNT * 64) == TBRT_OK);
                CHECK(state.calls == before); /* a call allocates nothing */
                CHECK(memcmp(vectors, expected, sizeof vectors) == 0);
            }
            tbrt_model_close(model);
            tbrt_session_free(session);
            CHECK(state.alive == 0);
        }
    }
}

typedef struct {
    tbrt_model *model;
    const float *expected;
    size_t dim;
    int wrong;
} job;

int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument);
static atomic_long threads_that_start = 1000000;

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument) {
    return atomic_fetch_sub(&threads_that_start, 1) > 0 ? __real_pthread_create(thread, attributes, run, argument) : 11;
}

static void test_threads_that_do_not_start(tbrt_model *model) {
    tbrt_session_options threads = TBRT_SESSION_OPTIONS_INIT;
    threads.threads = 4;
    for (threads_that_start = 0; threads_that_start < 3;) {
        const long few = threads_that_start;
        tbrt_session *session = NULL;
        tbrt_error error;
        CHECK(tbrt_session_new(model, &threads, &session, &error) == TBRT_THREAD_START && session == NULL && error.message[0] != '\0');
        threads_that_start = few + 1;
    }
    threads_that_start = 1000000;
}

static void test_offsets(tbrt_model *model, size_t dim) {
    tbrt_session *session = NULL;
    CHECK(tbrt_session_new(model, NULL, &session, NULL) == TBRT_OK);
    const int32_t ids[8] = {2, 5, 6, 7, 3, 5, 6, 3};
    float none[1] = {7};
    float *vectors = malloc(3 * dim * sizeof *vectors);
    const int64_t huge[3] = {0, 5, (int64_t)1 << 57}, falling[4] = {0, 4, 2, 3}, lowest[4] = {0, 3, INT64_MIN, 5};
    CHECK(tbrt_hidden_states(session, ids, NULL, huge, 2, none, 0) == TBRT_BUFFER_TOO_SMALL && none[0] == 7);
    CHECK(tbrt_hidden_states(session, ids, NULL, falling, 3, none, 0) == TBRT_INVALID_ARGUMENT && none[0] == 7);
    CHECK(tbrt_encode_ids(session, ids, NULL, falling, 3, NULL, vectors, 3 * dim) == TBRT_INVALID_ARGUMENT);
    CHECK(strcmp(tbrt_session_message(session), "offsets do not rise at text 1: from 4 to 2") == 0);
    CHECK(tbrt_encode_ids(session, ids, NULL, lowest, 3, NULL, vectors, 3 * dim) == TBRT_INVALID_ARGUMENT);
    tbrt_report report = TBRT_REPORT_INIT;
    CHECK(tbrt_session_report(session, &report) == TBRT_OK && report.text == 1 && report.done == 0);
    free(vectors);
    tbrt_session_free(session);
}

typedef struct {
    tbrt_session *session;
    float *vector;
    size_t dim;
} forking;

static int fork_inside(void *user, size_t done, size_t total) {
    const forking *at = user;
    (void)done;
    (void)total;
    CHECK(tbrt_encode(at->session, TEXTS, NULL, 1, NULL, at->vector, at->dim) == TBRT_BUSY);
    const pid_t child = fork();
    if (child == 0)
        _exit(tbrt_encode(at->session, TEXTS, NULL, 1, NULL, at->vector, at->dim) == TBRT_FORKED ? 0 : 1);
    int status = 1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    return 0;
}

static void test_fork_in_a_call(tbrt_model *model, size_t dim) {
    tbrt_session_options alone = TBRT_SESSION_OPTIONS_INIT;
    alone.threads = 1;
    forking at = {NULL, malloc(dim * sizeof(float)), dim};
    CHECK(tbrt_session_new(model, &alone, &at.session, NULL) == TBRT_OK);
    tbrt_encode_options options = TBRT_ENCODE_OPTIONS_INIT;
    options.progress = fork_inside;
    options.progress_user = &at;
    float *vector = malloc(dim * sizeof *vector);
    CHECK(tbrt_encode(at.session, TEXTS, NULL, 1, &options, vector, dim) == TBRT_OK);
    free(vector);
    free(at.vector);
    tbrt_session_free(at.session);
}

static void test_a_model_without_a_head(tbrt_model *model) {
    tbrt_session *session = NULL;
    CHECK(tbrt_session_new(model, NULL, &session, NULL) == TBRT_OK);
    float score;
    const int32_t ids[2] = {2, 3};
    const int64_t offsets[2] = {0, 2};
    CHECK(tbrt_classify(session, TEXTS, NULL, 1, NULL, &score, 1) == TBRT_MISSING_HEAD && *tbrt_session_message(session) != '\0');
    CHECK(tbrt_logits(session, ids, NULL, offsets, 1, &score, 1) == TBRT_MISSING_HEAD);
    const char *label;
    size_t size;
    CHECK(tbrt_model_label(model, 0, &label, &size) == TBRT_INVALID_ARGUMENT);
    tbrt_session_free(session);
}

static void *encode_many_times(void *argument) {
    job *mine = argument;
    tbrt_session_options threads = TBRT_SESSION_OPTIONS_INIT;
    threads.threads = 2;
    tbrt_session *session;
    if (tbrt_session_new(mine->model, &threads, &session, NULL) != TBRT_OK)
        return NULL;
    float *vectors = malloc(COUNT * mine->dim * sizeof *vectors);
    mine->wrong = 0;
    for (int i = 0; i < 20; i++)
        mine->wrong += tbrt_encode(session, TEXTS, NULL, COUNT, NULL, vectors, COUNT * mine->dim) != TBRT_OK ||
                       memcmp(vectors, mine->expected, COUNT * mine->dim * 4) != 0;
    free(vectors);
    tbrt_session_free(session);
    return NULL;
}

static void test_threads(tbrt_model *model, size_t dim) {
    enum { THREADS = 4 };
    float *expected = malloc(COUNT * dim * sizeof *expected);
    tbrt_session *session;
    CHECK(tbrt_session_new(model, NULL, &session, NULL) == TBRT_OK);
    CHECK(tbrt_encode(session, TEXTS, NULL, COUNT, NULL, expected, COUNT * dim) == TBRT_OK);
    tbrt_session_free(session);
    pthread_t threads[THREADS];
    job jobs[THREADS];
    for (int i = 0; i < THREADS; i++) {
        jobs[i] = (job){model, expected, dim, -1};
        pthread_create(&threads[i], NULL, encode_many_times, &jobs[i]);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        CHECK(jobs[i].wrong == 0);
    }
    free(expected);
}

int main(int argc, char **argv) {
    if (argc != 2)
        return 2;
    test_opening(argv[1]);
    size_t size = 0;
    void *data = read_file(argv[1], &size);
    tbrt_model *model = NULL;
    tbrt_model_info info = TBRT_MODEL_INFO_INIT;
    CHECK(tbrt_model_open_memory(data, size, NULL, &model, NULL) == TBRT_OK);
    if (model != NULL && tbrt_model_get_info(model, &info) == TBRT_OK) {
        test_calls(model, (size_t)info.dim);
        test_threads(model, (size_t)info.dim);
        test_offsets(model, (size_t)info.dim);
        test_inside(model, (size_t)info.dim, (size_t)info.num_layers, (size_t)info.num_heads);
        test_a_model_without_a_head(model);
        test_fork_in_a_call(model, (size_t)info.dim);
        test_threads_that_do_not_start(model);
    }
    tbrt_model_close(model);
    test_failing_allocations(argv[1], data, size);
    free(data);
    printf("%d checks failed\n", failures);
    return failures != 0;
}
