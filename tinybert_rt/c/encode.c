/* Texts, or token ids, into vectors or hidden states, group by group. */
#include "internal.h"

#include <stdio.h>
#include <string.h>

int tbrt_read_encode_options(tbrt_session *session, const tbrt_encode_options *given, tbrt_encode_options *options, size_t count,
                             size_t vectors_size) {
    const kernel_model *model = session->model->kernel;
    *options = (tbrt_encode_options)TBRT_ENCODE_OPTIONS_INIT;
    session->report = (tbrt_report)TBRT_REPORT_INIT;
    session->report.text = -1;
    if (!tbrt_read_struct(options, sizeof *options, given))
        return tbrt_complain(session, TBRT_INVALID_ARGUMENT, UNKNOWN_OPTIONS);
    if (options->dim == 0)
        options->dim = (int32_t)model->hidden_size;
    if (options->max_tokens == 0)
        options->max_tokens = (int32_t)model->max_tokens;
    if (options->dim < 1 || options->dim > model->hidden_size)
        return tbrt_complain_of_range(session, "dim", options->dim, 1, model->hidden_size);
    if (options->max_tokens < model->tokenizer.pair_special || options->max_tokens > model->max_positions)
        return tbrt_complain_of_range(session, "max_tokens", options->max_tokens, model->tokenizer.pair_special, model->max_positions);
    if (options->truncation < 0 || options->truncation >= TBRT_TRUNCATION_COUNT)
        return tbrt_complain_of_range(session, "truncation", options->truncation, 0, TBRT_TRUNCATION_COUNT - 1);
    if (options->pairs != 0 && options->pairs != 1)
        return tbrt_complain_of_range(session, "pairs", options->pairs, 0, 1);
    if (count > SIZE_MAX / 64 / (size_t)options->dim || vectors_size < count * (size_t)options->dim) {
        snprintf(session->message, sizeof session->message, "vectors_size is %zu floats; vectors of %zu texts with %d elements each need more",
                 vectors_size, count, (int)options->dim);
        return TBRT_BUFFER_TOO_SMALL;
    }
    return TBRT_OK;
}

/* Where the texts from number `first` on lie, as the kernels want it: relative to the first of them. */
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

/* What is wrong with a text, after a status of the kernels. `offsets`: where ids are given, else NULL. */
static int complain_of(tbrt_session *session, const tbrt_encode_options *options, int status, int64_t text, const int64_t *offsets) {
    session->report.text = text;
    if (offsets == NULL) {
        const int64_t tokens = ((const kernel_worker *)(uintptr_t)session->kernel.locals)[0].info.total;
        return tbrt_complain_of_text(session, status, text, tokens, options->max_tokens);
    }
    if (offsets[text + 1] < offsets[text]) {
        snprintf(session->message, sizeof session->message, "offsets do not rise at text %lld: from %lld to %lld", (long long)text,
                 (long long)offsets[text], (long long)offsets[text + 1]);
        return status;
    }
    return tbrt_complain_of_text(session, status, text, offsets[text + 1] - offsets[text], session->model->kernel->max_positions);
}

/* Run a request's texts, group by group. `texts` is NULL where ids are given, `offsets` where they are not. */
static int run(tbrt_session *session, const tbrt_encode_options *options, const char *const *texts, const size_t *sizes,
               const int64_t *offsets, size_t count) {
    kernel_request *request = &session->request;
    const kernel_functions *kernels = &session->model->level->kernels;
    const size_t step = options->pairs ? 2 : 1;
    const int64_t out = request->out, scores = request->scores, labels = session->model->kernel->labels;
    const int scores_of_texts = scores != 0 && session->model->kernel->head == TBRT_HEAD_OF_TEXTS; /* of tokens: placed as the ids are */
    const int64_t masked_logits = request->masked_logits, masked_room = request->masked_room;
    int64_t masked = 0;          /* mask tokens of the texts that are finished */
    size_t done = 0, placed = 0; /* texts before these are finished, and have been placed */
    while (done < count) {
        if (texts != NULL && done == placed) {
            const size_t left = count - done, part = left < TBRT_GROUP_TEXTS ? left : TBRT_GROUP_TEXTS;
            const int status = place_texts(session, texts, sizes, done, part, step);
            if (status != TBRT_OK)
                return status;
            request->text_starts = address(session->starts);
            request->text_ends = address(session->ends);
            placed = done + part;
        }
        if (texts != NULL) {
            request->n_texts = (int64_t)(placed - done);
            request->truncated = address(session->truncated);
            request->token_counts = options->token_counts == NULL ? 0 : address(options->token_counts + done);
            request->ids = request->types = 0;
        } else {
            const size_t left = count - done;
            request->n_texts = (int64_t)(left < TBRT_GROUP_TEXTS ? left : TBRT_GROUP_TEXTS);
            request->id_offsets = address(offsets + done);
        }
        request->out = out == 0 ? 0 : out + 4 * (int64_t)(done * (size_t)options->dim);
        if (scores_of_texts)
            request->scores = scores + 4 * (int64_t)done * labels;
        if (masked_logits != 0) {
            request->masked_logits = masked_logits + 4 * masked * session->model->kernel->vocab_size;
            request->masked_room = masked_room - masked;
        }
        const int status = (int)kernels->encode(&session->kernel, request);
        const size_t finished = request->done > 0 ? (size_t)request->done : 0;
        for (size_t i = 0; i < finished && texts != NULL; i++) {
            session->report.truncated += session->truncated[i];
            if (options->truncated != NULL)
                options->truncated[done + i] = session->truncated[i];
        }
        session->report.done = done + finished;
        for (size_t i = 0; i < finished && request->attentions != 0; i++)
            request->attentions += 4 * (int64_t)tbrt_attention_maps(session->model->kernel, offsets[done + i + 1] - offsets[done + i]);
        if (status != TBRT_OK)
            return complain_of(session, options, status, request->item < 0 ? (int64_t)done : (int64_t)done + request->item, offsets);
        if (finished == 0)
            return tbrt_complain(session, TBRT_ERROR, "no progress was made: this is a fault of the library");
        done += finished;
        masked += request->masked;
        request->text_starts += 8 * (int64_t)(finished * step);
        request->text_ends += 8 * (int64_t)(finished * step);
        if (options->progress != NULL && options->progress(options->progress_user, done, count) != 0 && done < count) {
            snprintf(session->message, sizeof session->message, "cancelled by the progress callback after %zu texts", done);
            return TBRT_CANCELLED;
        }
    }
    return TBRT_OK;
}

/* tbrt_encode or tbrt_classify: texts into vectors, or into probabilities of labels. */
static int encode_texts(tbrt_session *session, const char *const *texts, const size_t *sizes, size_t count,
                        const tbrt_encode_options *options, float *vectors, float *scores) {
    memset(&session->request, 0, sizeof session->request);
    session->request.pairs = options->pairs;
    session->request.truncation = options->truncation;
    session->request.max_tokens = options->max_tokens;
    session->request.out = vectors == NULL ? 0 : address(vectors);
    session->request.dim = options->dim;
    session->request.scores = scores == NULL ? 0 : address(scores);
    session->request.probabilities = 1;
    return run(session, options, texts, sizes, NULL, count);
}

int tbrt_encode(tbrt_session *session, const char *const *texts, const size_t *sizes, size_t count, const tbrt_encode_options *given,
                float *vectors, size_t vectors_size) {
    int status = tbrt_enter(session);
    if (status != TBRT_OK)
        return status;
    tbrt_encode_options options;
    status = tbrt_read_encode_options(session, given, &options, count, vectors_size);
    if (status != TBRT_OK || count == 0)
        return tbrt_leave(session, status);
    if (texts == NULL || vectors == NULL)
        return tbrt_leave(session, tbrt_complain(session, TBRT_INVALID_ARGUMENT, texts == NULL ? "texts is NULL" : "vectors is NULL"));
    return tbrt_leave(session, encode_texts(session, texts, sizes, count, &options, vectors, NULL));
}

/* The model must have a head, for texts if that is asked. */
static int require_head(tbrt_session *session, int of_texts) {
    const int64_t head = session->model->kernel->head;
    if (head != 0 && (!of_texts || head == TBRT_HEAD_OF_TEXTS))
        return TBRT_OK;
    return tbrt_complain(session, TBRT_MISSING_HEAD, head == 0 ? "the model has no head" : "the model has no head that classifies texts");
}

int tbrt_classify(tbrt_session *session, const char *const *texts, const size_t *sizes, size_t count, const tbrt_encode_options *given,
                  float *scores, size_t scores_size) {
    int status = tbrt_enter(session);
    if (status != TBRT_OK)
        return status;
    tbrt_encode_options options;
    status = tbrt_read_encode_options(session, given, &options, 0, 0);
    if (status == TBRT_OK)
        status = require_head(session, 1);
    if (status != TBRT_OK || count == 0)
        return tbrt_leave(session, status);
    const size_t labels = (size_t)session->model->kernel->labels;
    if (texts == NULL || scores == NULL)
        return tbrt_leave(session, tbrt_complain(session, TBRT_INVALID_ARGUMENT, texts == NULL ? "texts is NULL" : "scores is NULL"));
    if (count > scores_size / labels) {
        snprintf(session->message, sizeof session->message, "scores_size is %zu floats; scores of %zu texts with %zu labels each need more",
                 scores_size, count, labels);
        return tbrt_leave(session, TBRT_BUFFER_TOO_SMALL);
    }
    return tbrt_leave(session, encode_texts(session, texts, sizes, count, &options, NULL, scores));
}

static int64_t mask_tokens(const tbrt_session *session, const int32_t *ids, int64_t count) {
    int64_t found = 0;
    for (int64_t i = 0; i < count; i++)
        found += ids[i] == session->model->kernel->tokenizer.mask_id;
    return found;
}

int tbrt_encode_ids_to(tbrt_session *session, const int32_t *ids, const uint8_t *types, const int64_t *offsets, size_t count,
                       const tbrt_encode_options *options, const tbrt_places *to) {
    if (ids == NULL || offsets == NULL || tbrt_no_place(to))
        return tbrt_complain(session, TBRT_INVALID_ARGUMENT,
                        ids == NULL ? "ids is NULL" : offsets == NULL ? "offsets is NULL" : "the results have no place: NULL");
    const int64_t total = offsets[count];
    if (offsets[0] != 0)
        return tbrt_complain(session, TBRT_INVALID_ARGUMENT, "offsets must begin with 0");
    for (size_t i = 0; i < count; i++) /* so that the kernels see sizes that are sizes, and the room below is all that is written */
        if (offsets[i + 1] < offsets[i])
            return complain_of(session, options, TBRT_INVALID_ARGUMENT, (int64_t)i, offsets);
    const size_t each = to->of_token + to->of_text + to->of_mask;
    const int64_t masked = to->of_mask != 0 ? mask_tokens(session, ids, total) : 0;
    const int64_t rows = to->of_token != 0 ? total : to->of_text != 0 ? (int64_t)count : masked;
    if (each != 0 && (uint64_t)rows > to->size / each) {
        const char *what = to->of_token != 0 ? "tokens" : to->of_text != 0 ? "texts" : "mask tokens";
        snprintf(session->message, sizeof session->message, "there is room for %zu floats; %lld %s with %zu each need more", to->size,
                 (long long)rows, what, each);
        return TBRT_BUFFER_TOO_SMALL;
    }
    memset(&session->request, 0, sizeof session->request);
    session->request.ids = address(ids);
    session->request.n_ids = total;
    session->request.types = types == NULL ? 0 : address(types);
    session->request.out = to->vectors == NULL ? 0 : address(to->vectors);
    session->request.dim = options->dim;
    session->request.hidden = to->hidden == NULL ? 0 : address(to->hidden);
    if (to->of_mask != 0) {
        session->request.masked_logits = address(to->logits);
        session->request.masked_room = masked;
    } else {
        session->request.scores = to->logits == NULL ? 0 : address(to->logits);
        session->request.probabilities = to->probabilities;
    }
    session->request.layers = to->layers == NULL ? 0 : address(to->layers);
    session->request.attentions = to->attentions == NULL ? 0 : address(to->attentions);
    return run(session, options, NULL, NULL, offsets, count);
}

int tbrt_encode_ids(tbrt_session *session, const int32_t *ids, const uint8_t *types, const int64_t *offsets, size_t count,
                    const tbrt_encode_options *given, float *vectors, size_t vectors_size) {
    int status = tbrt_enter(session);
    if (status != TBRT_OK)
        return status;
    tbrt_encode_options options;
    status = tbrt_read_encode_options(session, given, &options, count, vectors_size);
    if (status == TBRT_OK && options.pairs != 0)
        status = tbrt_complain(session, TBRT_INVALID_ARGUMENT, "pairs: ids are given, so that types say what belongs to which text");
    if (status != TBRT_OK || count == 0)
        return tbrt_leave(session, status);
    const tbrt_places to = {.vectors = vectors}; /* its room has been checked */
    return tbrt_leave(session, tbrt_encode_ids_to(session, ids, types, offsets, count, &options, &to));
}

int tbrt_hidden_states(tbrt_session *session, const int32_t *ids, const uint8_t *types, const int64_t *offsets, size_t count, float *hidden,
                       size_t hidden_size) {
    int status = tbrt_enter(session);
    if (status != TBRT_OK)
        return status;
    tbrt_encode_options options;
    status = tbrt_read_encode_options(session, NULL, &options, 0, 0);
    if (status != TBRT_OK || count == 0)
        return tbrt_leave(session, status);
    const tbrt_places to = {.hidden = hidden, .size = hidden_size, .of_token = (size_t)session->model->kernel->hidden_size};
    return tbrt_leave(session, tbrt_encode_ids_to(session, ids, types, offsets, count, &options, &to));
}

int tbrt_logits(tbrt_session *session, const int32_t *ids, const uint8_t *types, const int64_t *offsets, size_t count, float *logits,
                size_t logits_size) {
    int status = tbrt_enter(session);
    if (status != TBRT_OK)
        return status;
    tbrt_encode_options options;
    status = tbrt_read_encode_options(session, NULL, &options, 0, 0);
    if (status == TBRT_OK)
        status = require_head(session, 0);
    if (status != TBRT_OK || count == 0)
        return tbrt_leave(session, status);
    const kernel_model *model = session->model->kernel;
    const size_t labels = (size_t)model->labels;
    tbrt_places to = {.logits = logits, .size = logits_size};
    if (model->head == TBRT_HEAD_MASKED)
        to.of_mask = (size_t)model->vocab_size;
    else
        *(model->head == TBRT_HEAD_OF_TEXTS ? &to.of_text : &to.of_token) = labels;
    return tbrt_leave(session, tbrt_encode_ids_to(session, ids, types, offsets, count, &options, &to));
}

int tbrt_scores_of_ids(tbrt_session *session, const int32_t *ids, const uint8_t *types, int64_t count, float *scores, int probabilities) {
    tbrt_encode_options options;
    const int status = tbrt_read_encode_options(session, NULL, &options, 0, 0);
    if (status != TBRT_OK)
        return status;
    const int64_t offsets[2] = {0, count};
    const size_t labels = (size_t)session->model->kernel->labels;
    const tbrt_places to = {.logits = scores, .size = (size_t)count * labels, .of_token = labels, .probabilities = probabilities};
    return tbrt_encode_ids_to(session, ids, types, offsets, 1, &options, &to);
}
