/* Masked-token prediction. */
#include "internal.h"

#include <stdio.h>
#include <string.h>

int tbrt_fill_mask(tbrt_session *session, const char *text, size_t size, int32_t top, int32_t *ids, float *probabilities, size_t capacity,
                   size_t *count) {
    int status = tbrt_enter(session);
    if (status != TBRT_OK)
        return status;
    const kernel_model *model = session->model->kernel;
    if (count != NULL)
        *count = 0;
    if (count == NULL || (text == NULL && size != 0) || (capacity != 0 && (ids == NULL || probabilities == NULL)))
        return tbrt_leave(session, tbrt_complain(session, TBRT_INVALID_ARGUMENT,
                                                 count == NULL            ? "count is NULL"
                                                 : text == NULL           ? "text is NULL"
                                                                          : "ids or probabilities is NULL"));
    if (model->head != TBRT_HEAD_MASKED)
        return tbrt_leave(session, tbrt_complain(session, TBRT_MISSING_HEAD, "the model has no head that predicts masked tokens"));
    if (top < 1 || top > model->vocab_size)
        return tbrt_leave(session, tbrt_complain_of_range(session, "top", top, 1, model->vocab_size));
    if (size == TBRT_NUL_TERMINATED)
        size = strlen(text);
    if (size > LONGEST_TEXT)
        return tbrt_leave(session, tbrt_complain(session, TBRT_INVALID_ARGUMENT, "the size of the text is larger than memory can be"));
    int32_t tokens = 0;
    int64_t start = 0, end = (int64_t)size, none;
    kernel_request *request = &session->request;
    memset(request, 0, sizeof *request);
    request->texts = text == NULL ? address(&none) : address(text);
    request->text_starts = address(&start);
    request->text_ends = address(&end);
    request->n_texts = 1;
    request->truncation = TBRT_ERROR_IF_TOO_LONG; /* a mask token could be cut off */
    request->max_tokens = model->max_tokens;
    request->token_counts = address(&tokens);
    request->top = top;
    request->top_ids = capacity == 0 ? address(&none) : address(ids); /* without room, nothing is written */
    request->top_scores = capacity == 0 ? address(&none) : address(probabilities);
    request->masked_room = capacity > (size_t)model->max_tokens ? model->max_tokens : (int64_t)capacity;
    status = (int)session->model->level->kernels.encode(&session->kernel, request);
    *count = (size_t)request->masked;
    if (status == TBRT_BUFFER_TOO_SMALL)
        snprintf(session->message, sizeof session->message, "there is room for %zu mask tokens, the text has %zu", capacity, *count);
    else if (status != TBRT_OK)
        tbrt_complain_of_text(session, status, 0, tokens, model->max_tokens);
    return tbrt_leave(session, status);
}
