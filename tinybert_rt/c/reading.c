/* Heads of tokens read as answers: entities of a text, places in a context. What Python does in reading.py, with bytes for characters. */
#include "internal.h"

#include <stdio.h>
#include <string.h>

/* The tokens of a text, without its special ones, and the bytes of the word of each; in one piece of the model's memory. */
typedef struct {
    int32_t *memory;
    size_t size;
    const int32_t *ids;   /* [count] */
    const int32_t *spans; /* [count][2] */
    int64_t count;
} text_tokens;

static int tokenize(tbrt_session *session, const char *text, size_t size, text_tokens *tokens) {
    const kernel_functions *kernels = &session->model->level->kernels;
    if (text == NULL && size != 0)
        return tbrt_complain(session, TBRT_INVALID_ARGUMENT, "text is NULL");
    if (size == TBRT_NUL_TERMINATED)
        size = strlen(text);
    if (size > LONGEST_SPANNED_TEXT)
        return tbrt_complain(session, TBRT_INVALID_ARGUMENT, "the text is larger than 2 GiB");
    kernel_tokenize_call call;
    int32_t special[2];
    memset(&call, 0, sizeof call);
    call.tokenizer = address(&session->model->kernel->tokenizer);
    call.scratch = ((const kernel_worker *)(uintptr_t)session->kernel.locals)[0].text;
    call.truncation = TBRT_TRUNCATE;
    call.max_tokens = 2;
    call.ids = address(special);
    kernels->tokenize(&call, text, (int64_t)size, NULL, -1); /* counts them */
    const size_t total = (size_t)call.info.total;
    tokens->size = total * 3 * sizeof(int32_t);
    tokens->memory = tbrt_allocate(&session->model->allocator, tokens->size);
    if (tokens->memory == NULL)
        return tbrt_complain(session, TBRT_OUT_OF_MEMORY, "out of memory for the tokens of the text");
    call.max_tokens = (int64_t)total;
    call.ids = address(tokens->memory);
    call.spans = address(tokens->memory + total);
    const int status = (int)kernels->tokenize(&call, text, (int64_t)size, NULL, -1);
    tokens->ids = tokens->memory + 1;
    tokens->spans = tokens->memory + total + 2;
    tokens->count = (int64_t)total - 2;
    return status;
}

static void release(tbrt_session *session, text_tokens *tokens) {
    tbrt_release(&session->model->allocator, tokens->memory, tokens->size);
}

static int begins_word(const text_tokens *tokens, int64_t token, int64_t first) {
    const int32_t *spans = tokens->spans + 2 * token;
    return token == first || spans[0] != spans[-2] || spans[1] != spans[-1];
}

static int require_head(tbrt_session *session, int64_t kind, const char *complaint) {
    return session->model->kernel->head == kind ? TBRT_OK : tbrt_complain(session, TBRT_MISSING_HEAD, complaint);
}

static int too_few_tokens(tbrt_session *session) {
    return tbrt_complain(session, TBRT_INVALID_ARGUMENT,
                         "the model takes too few tokens for this: convert it with a larger --max-tokens");
}

/* ---------------------------------------------------------------- entities */

typedef struct {
    int32_t label;
    float probability;
    int64_t depth; /* tokens to the nearest border of the window that it comes from */
} tagged;

/* The label of every token, in the window in which it is farthest from a border. */
static int tag_tokens(tbrt_session *session, const text_tokens *tokens, tagged *found, int32_t *piece, float *scores, int64_t size) {
    const kernel_model *model = session->model->kernel;
    const int64_t labels = model->labels, count = tokens->count;
    int64_t begin = 0, end = 0;
    for (int64_t i = 0; i < count; i++)
        found[i].depth = -1;
    while (end < count) {
        begin = end == 0 ? 0 : end - size / 4;
        end = count - begin < size ? count : begin + size;
        piece[0] = (int32_t)model->tokenizer.cls_id;
        memcpy(piece + 1, tokens->ids + begin, (size_t)(end - begin) * sizeof *piece);
        piece[end - begin + 1] = (int32_t)model->tokenizer.sep_id;
        const int status = tbrt_scores_of_ids(session, piece, NULL, end - begin + 2, scores, 1);
        if (status != TBRT_OK)
            return status;
        for (int64_t i = begin; i < end; i++) {
            const int64_t left = begin == 0 ? i + count : i - begin, right = end == count ? 2 * count - i : end - 1 - i;
            const int64_t depth = left < right ? left : right;
            if (depth <= found[i].depth)
                continue;
            const float *row = scores + (1 + i - begin) * labels;
            int32_t best = 0;
            for (int32_t label = 1; label < labels; label++)
                if (row[label] > row[best])
                    best = label;
            found[i] = (tagged){best, row[best], depth};
        }
    }
    return TBRT_OK;
}

/* Words with the same label become one entity: "B-X" begins it, "I-X" goes on with it, "O" is none; other labels are of one word. */
static size_t merge(const tbrt_session *session, const text_tokens *tokens, const tagged *found, tbrt_entity *entities, size_t capacity) {
    size_t count = 0, words = 0;
    double sum = 0;
    int open = 0;
    tbrt_entity last = {NULL, 0, 0, 0, 0, 0};
    for (int64_t i = 0; i < tokens->count; i++) {
        if (!begins_word(tokens, i, 0))
            continue;
        const char *label;
        size_t size;
        tbrt_model_label(session->model, found[i].label, &label, &size);
        if (size == 1 && *label == 'O') {
            open = 0;
            continue;
        }
        const int marked = size > 2 && label[1] == '-' && (*label == 'B' || *label == 'I'), inside = marked && *label == 'I';
        label += marked ? 2 : 0;
        size -= marked ? 2 : 0;
        const size_t start = (size_t)tokens->spans[2 * i], end = (size_t)tokens->spans[2 * i + 1];
        if (inside && open && size == last.label_size && memcmp(label, last.label, size) == 0) {
            sum += (double)found[i].probability;
            words++;
            last.end = end;
            last.score = (float)(sum / (double)words);
        } else {
            sum = (double)found[i].probability;
            words = 1;
            last = (tbrt_entity){label, size, start, end, found[i].probability, 0};
            count++;
        }
        open = marked;
        if (count <= capacity)
            entities[count - 1] = last;
    }
    return count;
}

int tbrt_tag(tbrt_session *session, const char *text, size_t size, tbrt_entity *entities, size_t capacity, size_t *count) {
    int status = tbrt_enter(session);
    if (status != TBRT_OK)
        return status;
    if (count != NULL)
        *count = 0;
    if (count == NULL || (entities == NULL && capacity != 0))
        return tbrt_leave(session, tbrt_complain(session, TBRT_INVALID_ARGUMENT, count == NULL ? "count is NULL" : "entities is NULL"));
    const kernel_model *model = session->model->kernel;
    const tbrt_allocator *allocator = &session->model->allocator;
    text_tokens tokens = {NULL, 0, NULL, NULL, 0};
    status = require_head(session, TBRT_HEAD_TAGS, "the model has no head that labels tokens");
    if (status == TBRT_OK && model->max_tokens < SMALLEST_LIMIT)
        status = too_few_tokens(session);
    if (status == TBRT_OK)
        status = tokenize(session, text, size, &tokens);
    if (status == TBRT_OK) {
        const size_t window = (size_t)model->max_tokens, scores_size = window * (size_t)model->labels * sizeof(float);
        const size_t ids_size = window * sizeof(int32_t), found_size = ((size_t)tokens.count + 1) * sizeof(tagged);
        float *scores = tbrt_allocate(allocator, scores_size);
        int32_t *piece = tbrt_allocate(allocator, ids_size);
        tagged *found = tbrt_allocate(allocator, found_size);
        if (scores == NULL || piece == NULL || found == NULL)
            status = tbrt_complain(session, TBRT_OUT_OF_MEMORY, "out of memory for the labels of the tokens");
        else
            status = tag_tokens(session, &tokens, found, piece, scores, model->max_tokens - 2);
        if (status == TBRT_OK) {
            *count = merge(session, &tokens, found, entities, capacity);
            if (*count > capacity) {
                snprintf(session->message, sizeof session->message, "there is room for %zu entities, the text has %zu", capacity, *count);
                status = TBRT_BUFFER_TOO_SMALL;
            }
        }
        tbrt_release(allocator, scores, scores_size);
        tbrt_release(allocator, piece, ids_size);
        tbrt_release(allocator, found, found_size);
    }
    release(session, &tokens);
    return tbrt_leave(session, status);
}

/* ---------------------------------------------------------------- answers */

static int is_before(const tbrt_place *a, const tbrt_place *b) {
    if (a->score != b->score)
        return a->score > b->score;
    return a->start != b->start ? a->start < b->start : a->end < b->end;
}

/* Put a place among the best, which are sorted; the same place is there once, with its best score. */
static void keep(tbrt_place *best, size_t capacity, size_t *count, tbrt_place place) {
    size_t at = 0;
    while (at < *count && (best[at].start != place.start || best[at].end != place.end))
        at++;
    if (at < *count && best[at].score >= place.score)
        return;
    if (at == *count && *count == capacity) {
        at--;
        if (!is_before(&place, &best[at]))
            return;
    } else if (at == *count) {
        ++*count;
    }
    for (; at > 0 && is_before(&place, &best[at - 1]); at--)
        best[at] = best[at - 1];
    best[at] = place;
}

/* What the answers of one question share: memory for a window, and how long an answer may be. */
typedef struct {
    int32_t *ids;  /* [max_tokens], the question in front */
    uint8_t *types;
    float *logits; /* [max_tokens][2] */
    float *first, *last; /* [max_tokens + 16] */
    int64_t asked, longest, with_types;
} question_window;

/* The best places of one window of the context (Devlin et al. 2019, section 4.2); *nothing: the least score of no answer (4.3) so far. */
static int answer_window(tbrt_session *session, const question_window *at, const text_tokens *context, int64_t begin, int64_t end,
                         tbrt_place *best, size_t capacity, size_t *count, float *nothing) {
    const kernel_functions *kernels = &session->model->level->kernels;
    const int64_t separators = session->model->kernel->tokenizer.pair_special - 2;
    const int64_t before = 1 + at->asked + separators, inside = end - begin, total = before + inside + 1;
    memcpy(at->ids + before, context->ids + begin, (size_t)inside * sizeof *at->ids);
    at->ids[total - 1] = (int32_t)session->model->kernel->tokenizer.sep_id;
    for (int64_t i = 0; i < total; i++)
        at->types[i] = i >= before && separators == 1;
    const int status = tbrt_scores_of_ids(session, at->ids, at->with_types ? at->types : NULL, total, at->logits, 0);
    if (status != TBRT_OK)
        return status;
    for (int64_t i = 0; i <= inside; i++) { /* of the first token, which stands for no answer, and of those of the context */
        const float *row = at->logits + 2 * (i == 0 ? 0 : before + i - 1);
        at->first[i] = row[0];
        at->last[i] = row[1];
    }
    kernels->softmax(address(at->first), inside + 1);
    kernels->softmax(address(at->last), inside + 1);
    if (at->first[0] * at->last[0] < *nothing)
        *nothing = at->first[0] * at->last[0];
    for (int64_t i = 0; i < inside; i++)
        for (int64_t j = i; j < inside && j < i + at->longest; j++) {
            const float score = at->first[1 + i] * at->last[1 + j];
            const int32_t *start = context->spans + 2 * (begin + i), *stop = context->spans + 2 * (begin + j);
            if (score > 0 && (*count < capacity || score >= best[*count - 1].score))
                keep(best, capacity, count, (tbrt_place){(size_t)start[0], (size_t)stop[1], score, 0});
        }
    return TBRT_OK;
}

static int answer_in_windows(tbrt_session *session, const tbrt_answer_options *options, const text_tokens *question,
                             const text_tokens *context, tbrt_place *best, size_t capacity, size_t *count) {
    const kernel_model *model = session->model->kernel;
    const tbrt_allocator *allocator = &session->model->allocator;
    const int64_t most = model->max_tokens / 2 > 2 ? model->max_tokens / 2 - 2 : 0;
    const int64_t asked = question->count < most ? question->count : most, room = model->max_tokens - asked - model->tokenizer.pair_special;
    if (room < 1)
        return too_few_tokens(session);
    const int64_t stride = options->stride < room / 2 ? options->stride : room / 2;
    const size_t tokens = (size_t)model->max_tokens, floats = (2 * tokens + 2 * (tokens + 16)) * sizeof(float);
    const size_t size = floats + tokens * (sizeof(int32_t) + 1);
    float *memory = tbrt_allocate(allocator, size);
    if (memory == NULL)
        return tbrt_complain(session, TBRT_OUT_OF_MEMORY, "out of memory for a window of the context");
    question_window at = {NULL, NULL, memory, memory + 2 * tokens, memory + 3 * tokens + 16, asked, options->max_answer_tokens,
                          model->type_vocab_size > 1};
    at.ids = (int32_t *)(memory + 4 * tokens + 32);
    at.types = (uint8_t *)(at.ids + tokens);
    at.ids[0] = (int32_t)model->tokenizer.cls_id;
    memcpy(at.ids + 1, question->ids, (size_t)asked * sizeof *at.ids);
    for (int64_t i = 1; i < model->tokenizer.pair_special - 1; i++)
        at.ids[asked + i] = (int32_t)model->tokenizer.sep_id;
    float nothing = 1;
    int64_t begin = 0, end = 0;
    int status = TBRT_OK;
    do {
        begin = end == 0 ? 0 : end - stride;
        end = context->count - begin < room ? context->count : begin + room;
        status = answer_window(session, &at, context, begin, end, best, capacity, count, &nothing);
    } while (status == TBRT_OK && end < context->count);
    tbrt_release(allocator, memory, size);
    if (status == TBRT_OK && options->no_answer)
        keep(best, capacity, count, (tbrt_place){0, 0, nothing, 0});
    return status;
}

int tbrt_answer(tbrt_session *session, const char *question, size_t question_size, const char *context, size_t context_size,
                const tbrt_answer_options *given, tbrt_place *places, size_t capacity, size_t *count) {
    int status = tbrt_enter(session);
    if (status != TBRT_OK)
        return status;
    tbrt_answer_options options = TBRT_ANSWER_OPTIONS_INIT;
    if (count != NULL)
        *count = 0;
    if (count == NULL || places == NULL || capacity == 0)
        status = tbrt_complain(session, TBRT_INVALID_ARGUMENT, count == NULL ? "count is NULL" : "there is no room for a place");
    else if (!tbrt_read_struct(&options, sizeof options, given))
        status = tbrt_complain(session, TBRT_INVALID_ARGUMENT, UNKNOWN_OPTIONS);
    else if (options.max_answer_tokens < 1)
        status = tbrt_complain_of_range(session, "max_answer_tokens", options.max_answer_tokens, 1, INT32_MAX);
    else if (options.stride < 0)
        status = tbrt_complain_of_range(session, "stride", options.stride, 0, INT32_MAX);
    else if (options.no_answer != 0 && options.no_answer != 1)
        status = tbrt_complain_of_range(session, "no_answer", options.no_answer, 0, 1);
    else if (options.reserved != 0)
        status = tbrt_complain(session, TBRT_INVALID_ARGUMENT, "reserved must be 0");
    else
        status = require_head(session, TBRT_HEAD_ANSWERS, "the model has no head that answers questions");
    text_tokens asked = {NULL, 0, NULL, NULL, 0}, found = {NULL, 0, NULL, NULL, 0};
    if (status == TBRT_OK)
        status = tokenize(session, question, question_size, &asked);
    if (status == TBRT_OK)
        status = tokenize(session, context, context_size, &found);
    if (status == TBRT_OK)
        status = answer_in_windows(session, &options, &asked, &found, places, capacity, count);
    if (status != TBRT_OK && count != NULL)
        *count = 0;
    release(session, &asked);
    release(session, &found);
    return tbrt_leave(session, status);
}
