/* embedded MODEL THREADS TEXT [LONG_TEXT]: what bench.startup and bench.embedded measure of a program that has the library in it.
 *
 * One line of JSON when the vector of TEXT is there: seconds of CLOCK_MONOTONIC at the start of main, with the session ready, and with the vector.
 * Then LONG_TEXT is encoded, with as many tokens as the model has positions, another line says so, and the process waits for the end
 * of its input, so that its memory can be looked at. */
#define _POSIX_C_SOURCE 200809L
#include <tinybert_rt.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

int main(int argc, char **argv) {
    const double start = now();
    if (argc < 4)
        return 2;
    tbrt_error error;
    tbrt_model *model = NULL;
    tbrt_session *session = NULL;
    tbrt_session_options options = TBRT_SESSION_OPTIONS_INIT;
    options.threads = atoi(argv[2]);
    if (tbrt_model_open(argv[1], NULL, &model, &error) != TBRT_OK || tbrt_session_new(model, &options, &session, &error) != TBRT_OK) {
        fprintf(stderr, "%s\n", error.message);
        return 2;
    }
    const double load = now();
    tbrt_model_info info = TBRT_MODEL_INFO_INIT;
    tbrt_model_get_info(model, &info);
    const size_t dim = (size_t)info.dim;
    float *vector = malloc(dim * sizeof *vector);
    const char *text = argv[3];
    if (vector == NULL || tbrt_encode(session, &text, NULL, 1, NULL, vector, dim) != TBRT_OK)
        return 2;
    printf("{\"start\": %.9f, \"load\": %.9f, \"vector\": %.9f, \"dim\": %zu}\n", start, load, now(), dim);
    fflush(stdout);
    if (argc > 4) {
        tbrt_encode_options encode = TBRT_ENCODE_OPTIONS_INIT;
        int32_t tokens = 0;
        encode.max_tokens = info.max_positions;
        encode.token_counts = &tokens;
        text = argv[4];
        if (tbrt_encode(session, &text, NULL, 1, &encode, vector, dim) != TBRT_OK)
            return 2;
        printf("{\"tokens\": %d}\n", (int)(tokens < info.max_positions ? tokens : info.max_positions));
        fflush(stdout);
    }
    while (getchar() != EOF) {
    }
    free(vector);
    tbrt_session_free(session);
    tbrt_model_close(model);
    return 0;
}
