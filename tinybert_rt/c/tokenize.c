/* Texts into token ids. */
#include "internal.h"

#include <stdio.h>
#include <string.h>

static int run(tbrt_session *session, kernel_tokenize_call *call, const char *text, size_t size, const char *pair, size_t pair_size,
               int64_t limit) {
    call->max_tokens = limit;
    return (int)session->model->level->kernels.tokenize(call, text, (int64_t)size, pair, pair == NULL ? -1 : (int64_t)pair_size);
}

int tbrt_tokenize(tbrt_session *session, const char *text, size_t size, const char *pair, size_t pair_size,
                  const tbrt_tokenize_options *given, int32_t *ids, uint8_t *types, size_t capacity, tbrt_tokens *tokens) {
    int status = tbrt_enter(session);
    if (status != TBRT_OK)
        return status;
    if (tokens != NULL)
        *tokens = (tbrt_tokens){0, 0, 0};
    tbrt_tokenize_options options = TBRT_TOKENIZE_OPTIONS_INIT;
    if (!tbrt_read_struct(&options, sizeof options, given))
        return tbrt_leave(session, tbrt_complain(session, TBRT_INVALID_ARGUMENT, UNKNOWN_OPTIONS));
    const kernel_tokenizer *tokenizer = &session->model->kernel->tokenizer;
    const int64_t least = pair == NULL ? SMALLEST_LIMIT : tokenizer->pair_special;
    if (options.max_tokens != 0 && options.max_tokens < least)
        return tbrt_leave(session, tbrt_complain_of_range(session, "max_tokens", options.max_tokens, least, INT32_MAX));
    if (options.truncation < 0 || options.truncation >= TBRT_TRUNCATION_COUNT)
        return tbrt_leave(session, tbrt_complain_of_range(session, "truncation", options.truncation, 0, TBRT_TRUNCATION_COUNT - 1));
    if ((text == NULL && size != 0) || (ids == NULL && capacity != 0))
        return tbrt_leave(session, tbrt_complain(session, TBRT_INVALID_ARGUMENT,
                                                 ids == NULL && capacity != 0 ? "ids is NULL" : "text is NULL"));
    if (size == TBRT_NUL_TERMINATED)
        size = strlen(text);
    if (pair == NULL)
        pair_size = 0;
    else if (pair_size == TBRT_NUL_TERMINATED)
        pair_size = strlen(pair);
    if (size > LONGEST_TEXT || pair_size > LONGEST_TEXT)
        return tbrt_leave(session, tbrt_complain(session, TBRT_INVALID_ARGUMENT, "the size of the text is larger than memory can be"));

    const int64_t special = pair == NULL ? 2 : tokenizer->pair_special;
    const int64_t most = ((int64_t)size + (int64_t)pair_size) * tokenizer->tokens_per_byte + special;
    const int64_t wanted = options.max_tokens != 0 && options.max_tokens < most ? options.max_tokens : most;
    if (options.spans != NULL && (size > LONGEST_SPANNED_TEXT || pair_size > LONGEST_SPANNED_TEXT))
        return tbrt_leave(session, tbrt_complain(session, TBRT_INVALID_ARGUMENT, "spans: the text is larger than 2 GiB"));
    kernel_tokenize_call call;
    memset(&call, 0, sizeof call);
    call.tokenizer = address(tokenizer);
    call.scratch = ((const kernel_worker *)(uintptr_t)session->kernel.locals)[0].text;
    int64_t limit = wanted;
    if (capacity < (size_t)wanted) { /* they may not fit: count them first */
        int32_t special_ids[MOST_SPECIAL];
        call.truncation = TBRT_TRUNCATE;
        call.ids = address(special_ids);
        run(session, &call, text, size, pair, pair_size, special);
        limit = call.info.total < wanted ? call.info.total : wanted;
    }
    if (call.info.total > wanted && options.truncation == TBRT_ERROR_IF_TOO_LONG) {
        call.info.count = 0;
        status = tbrt_complain_of_text(session, TBRT_TEXT_TOO_LONG, 0, call.info.total, wanted);
    } else if (capacity < (size_t)limit) {
        call.info.count = limit;
        call.info.truncated = call.info.total > wanted;
        status = TBRT_BUFFER_TOO_SMALL;
        snprintf(session->message, sizeof session->message, "there is room for %zu token ids, %lld are needed", capacity, (long long)limit);
    } else {
        call.truncation = options.truncation;
        call.ids = address(ids);
        call.types = types == NULL ? 0 : address(types);
        call.spans = options.spans == NULL ? 0 : address(options.spans);
        status = run(session, &call, text, size, pair, pair_size, limit);
        if (status != TBRT_OK)
            tbrt_complain_of_text(session, status, 0, call.info.total, wanted);
        else if (types != NULL && session->model->kernel->type_vocab_size == 1)
            memset(types, 0, (size_t)call.info.count);
    }
    if (tokens != NULL)
        *tokens = (tbrt_tokens){(size_t)call.info.count, (size_t)call.info.total, call.info.truncated != 0};
    return tbrt_leave(session, status);
}
