/* libFuzzer: any bytes as texts, at the end of readable memory, for the model that TBRT_FUZZ_MODEL names. The first byte chooses the
 * options. */
#include <tinybert_rt.h>

#include "guarded.h"

#define MOST_IDS 128

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static tbrt_session *session;
    static tbrt_model_info info = TBRT_MODEL_INFO_INIT;
    if (session == NULL) {
        tbrt_model *model;
        tbrt_session_options alone = TBRT_SESSION_OPTIONS_INIT;
        alone.threads = 1;
        if (tbrt_model_open(getenv("TBRT_FUZZ_MODEL"), NULL, &model, NULL) != TBRT_OK ||
            tbrt_session_new(model, &alone, &session, NULL) != TBRT_OK || tbrt_model_get_info(model, &info) != TBRT_OK)
            abort();
        tbrt_model_close(model);
    }
    if (size == 0)
        return 0;
    const uint8_t choice = *data++;
    size--;
    const guarded copy = guard(data, size);
    float *vectors = malloc(2 * (size_t)info.dim * sizeof *vectors);
    if (vectors == NULL)
        abort();
    const char *text = (const char *)copy.data;
    const size_t half = size / 2;
    const char *texts[2] = {text, text + half};
    const size_t sizes[2] = {half, size - half};
    tbrt_encode_options options = TBRT_ENCODE_OPTIONS_INIT;
    options.pairs = choice & 1;
    options.truncation = choice >> 1 & 3;
    options.max_tokens = choice >> 3 & 1 ? 3 + (choice >> 4) : 0;
    tbrt_encode(session, texts, sizes, options.pairs ? 1 : 2, &options, vectors, 2 * (size_t)info.dim);
    int32_t ids[MOST_IDS];
    uint8_t types[MOST_IDS];
    tbrt_tokens tokens;
    const tbrt_tokenize_options limit = {sizeof limit, options.max_tokens, options.truncation, NULL};
    const size_t capacity = choice >> 4 & 1 ? MOST_IDS : choice >> 5;
    if (tbrt_tokenize(session, text, half, options.pairs ? text + half : NULL, size - half, &limit, ids, types, capacity, &tokens) == TBRT_OK &&
        tokens.count > capacity)
        abort();
    /* The bytes as ids. */
    const int64_t count = (int64_t)(size / 4 < MOST_IDS ? size / 4 : MOST_IDS);
    memcpy(ids, data, (size_t)count * 4);
    for (int64_t i = 0; i < count; i++)
        ids[i] &= choice & 1 ? 0x3f : -1;
    const int64_t offsets[3] = {0, count / 2, count};
    tbrt_encode_ids(session, ids, NULL, offsets, 2, NULL, vectors, 2 * (size_t)info.dim);
    free(vectors);
    unguard(copy);
    return 0;
}
