/* What the files of the library share: models, sessions, and how they say what is wrong. */
#ifndef TBRT_INTERNAL_H
#define TBRT_INTERNAL_H

#include "tinybert_rt.h"

#include "kernels.h"
#include "levels.h"
#include "system.h"

#include <stdatomic.h>

#define LONGEST_TEXT (INT64_MAX / 4)
#define LONGEST_SPANNED_TEXT INT32_MAX /* spans are int32 */
#define SMALLEST_LIMIT 3 /* [CLS], one token, [SEP] */
#define MOST_SPECIAL 4   /* of a pair: [CLS], [SEP], [SEP], [SEP] */
#define UNKNOWN_OPTIONS "options: struct_size is not set, or members are set that this version does not know"

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

/* Kernels take addresses as integers. */
static inline int64_t address(const void *pointer) {
    return (int64_t)(uintptr_t)pointer;
}

/* Copy a versioned struct of the caller's (or NULL) over the defaults. Returns 0 if it has members that this version does not know. */
int tbrt_read_struct(void *known, size_t known_size, const void *given);

/* Fill a versioned result struct of the caller's: as much of it as the caller knows. Returns a status. */
int tbrt_write_struct(void *wanted, const void *known, size_t known_size);

/* Memory of the alignment that kernels need, or NULL; NULL may be released. */
void *tbrt_allocate(const tbrt_allocator *allocator, size_t size);
void tbrt_release(const tbrt_allocator *allocator, void *memory, size_t size);

/* A line for the log, if there is one. */
void tbrt_say(const tbrt_model *model, const char *message);

/* The level of this name (NULL: the best one). Returns a status. */
int tbrt_choose_level(const char *name, const tbrt_level **level, tbrt_error *error);

/* Each returns its status: what is wrong where there is no session, and with a session; a number that is not between low and high; a text. */
int tbrt_fail(tbrt_error *error, int status, const char *message);
int tbrt_complain(tbrt_session *session, int status, const char *message);
int tbrt_complain_of_range(tbrt_session *session, const char *name, int64_t value, int64_t low, int64_t high);
int tbrt_complain_of_text(tbrt_session *session, int status, int64_t text, int64_t tokens, int64_t limit);

/* The head's outputs of each token of one text, [count][labels]: logits, or probabilities. Returns a status. */
int tbrt_scores_of_ids(tbrt_session *session, const int32_t *ids, const uint8_t *types, int64_t count, float *scores, int probabilities);
/* The options of a call over the defaults, and whether vectors_size floats are enough for `count` vectors. Returns a status. */
int tbrt_read_encode_options(tbrt_session *session, const tbrt_encode_options *given, tbrt_encode_options *options, size_t count,
                             size_t vectors_size);

/* Where the results of texts that are tokenized already go: one of the five. size: the floats that there is room for; of_token, of_text,
 * of_mask: the floats of each token, text or mask token. All 0: the room has been checked. probabilities: they take the place of logits. */
typedef struct {
    float *vectors, *hidden, *logits, *layers, *attentions;
    size_t size, of_token, of_text, of_mask;
    int probabilities;
} tbrt_places;

static inline int tbrt_no_place(const tbrt_places *to) {
    return to->vectors == NULL && to->hidden == NULL && to->logits == NULL && to->layers == NULL && to->attentions == NULL;
}

/* Run texts that are tokenized already. Returns a status. */
int tbrt_encode_ids_to(tbrt_session *session, const int32_t *ids, const uint8_t *types, const int64_t *offsets, size_t count,
                       const tbrt_encode_options *options, const tbrt_places *to);

/* The floats of a text's attention probabilities; at most max_positions tokens. */
static inline size_t tbrt_attention_maps(const kernel_model *model, int64_t tokens) {
    return (size_t)model->num_layers * (size_t)model->num_heads * (size_t)tokens * (size_t)tokens;
}

/* Begin a call: the session is the caller's until tbrt_leave, which returns `status`. */
int tbrt_enter(tbrt_session *session);
int tbrt_leave(tbrt_session *session, int status);

#endif
