/* test_heads TAGGER READER MASKED: answers of heads into memory of exactly their size, with allocations that fail. Prints what does not hold. */
#include <tinybert_rt.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXTS 5
#define ROOM 48

static long calls, fails_at, alive;

static void *allocate(void *user, size_t size, size_t alignment) {
    void *memory = NULL;
    (void)user;
    if (++calls == fails_at || posix_memalign(&memory, alignment, size) != 0)
        return NULL;
    alive++;
    memset(memory, 0xff, size);
    return memory;
}

static void release(void *user, void *memory, size_t size) {
    (void)user;
    (void)size;
    alive--;
    free(memory);
}

/* The call of one of the three heads, with room for `capacity` results. */
static int call(tbrt_session *session, int head, const char *text, size_t size, size_t capacity, size_t *count) {
    tbrt_answer_options options = TBRT_ANSWER_OPTIONS_INIT;
    void *first = malloc(capacity * 64 + 1), *second = malloc(capacity * 3 * sizeof(float) + 1);
    tbrt_entity *entities = malloc(capacity * sizeof *entities + 1);
    tbrt_place *places = malloc(capacity * sizeof *places + 1);
    int status;
    options.no_answer = 1;
    options.stride = 20;
    if (head == 0)
        status = tbrt_tag(session, text, size, entities, capacity, count);
    else if (head == 1)
        status = tbrt_answer(session, "the cat ?", TBRT_NUL_TERMINATED, text, size, &options, places, capacity, count);
    else
        status = tbrt_fill_mask(session, text, size, 3, first, second, capacity, count);
    free(first);
    free(second);
    free(entities);
    free(places);
    return status;
}

int main(int count_of_arguments, char **arguments) {
    char tokens[2000] = "";
    int failures = 0;
    for (int i = 0; i < 60; i++)
        strcat(tokens, "the cat [MASK] sat, unaffable ");
    const char *const texts[TEXTS] = {tokens, "the cat", "", "\xff\xfe \xc3", "a [MASK] dog [MASK]"};
    for (int head = 0; head < 3 && head + 1 < count_of_arguments; head++) {
        tbrt_model_options options = TBRT_MODEL_OPTIONS_INIT;
        tbrt_session_options two = TBRT_SESSION_OPTIONS_INIT;
        tbrt_model *model;
        tbrt_session *session;
        options.allocator = (tbrt_allocator){allocate, release, NULL};
        two.threads = 2;
        if (tbrt_model_open(arguments[head + 1], &options, &model, NULL) != TBRT_OK || tbrt_session_new(model, &two, &session, NULL) != TBRT_OK)
            return 2;
        for (int i = 0; i < TEXTS; i++) {
            const size_t size = strlen(texts[i]);
            char *text = malloc(size + 1);
            size_t found = 0, again = 0;
            memcpy(text, texts[i], size);
            for (size_t capacity = 0; capacity < ROOM; capacity++) {
                const int status = call(session, head, text, size, capacity, &found);
                const int known = status == TBRT_OK || status == TBRT_BUFFER_TOO_SMALL || (head == 2 && status == TBRT_TEXT_TOO_LONG) ||
                                  (head == 1 && capacity == 0 && status == TBRT_INVALID_ARGUMENT);
                if (!known || (status == TBRT_OK && found > capacity) || (status == TBRT_BUFFER_TOO_SMALL && found <= capacity)) {
                    printf("head %d, text %d, room %zu: status %d, %zu found\n", head, i, capacity, status, found);
                    failures++;
                }
            }
            for (long fails = 1; head < 2 && fails <= 3; fails++) {
                const long before = alive;
                calls = 0;
                fails_at = fails;
                const int status = call(session, head, text, size, ROOM, &again);
                fails_at = 0;
                if (status != TBRT_OUT_OF_MEMORY || alive != before) {
                    printf("head %d, text %d, allocation %ld: status %d\n", head, i, fails, status);
                    failures++;
                }
            }
            free(text);
        }
        tbrt_session_free(session);
        tbrt_model_close(model);
    }
    if (alive != 0)
        printf("%ld allocations were not released\n", alive);
    return failures != 0 || alive != 0;
}
