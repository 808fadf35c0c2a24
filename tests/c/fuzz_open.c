/* libFuzzer: any bytes as a model file, at the end of readable memory. What opens must also encode. */
#include <tinybert_rt.h>

#include "guarded.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tbrt_model *model;
    tbrt_session *session;
    tbrt_error error;
    const guarded copy = guard(data, size);
    if (tbrt_model_open_memory(copy.data, size, NULL, &model, &error) != TBRT_OK) {
        unguard(copy);
        return 0;
    }
    tbrt_session_options alone = TBRT_SESSION_OPTIONS_INIT;
    alone.threads = 1;
    if (tbrt_session_new(model, &alone, &session, &error) == TBRT_OK) {
        tbrt_model_info info = TBRT_MODEL_INFO_INIT;
        tbrt_model_get_info(model, &info);
        const char *texts[2] = {"the cat and a dog, unaffable", "\xe6\x9d\xb1 x\xff"};
        float *vectors = malloc(2 * (size_t)info.dim * sizeof *vectors);
        if (vectors != NULL)
            tbrt_encode(session, texts, NULL, 2, NULL, vectors, 2 * (size_t)info.dim);
        free(vectors);
        tbrt_session_free(session);
    }
    tbrt_model_close(model);
    unguard(copy);
    return 0;
}
