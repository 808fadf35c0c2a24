/* rank MODEL QUERY TEXT…: the texts by falling cosine similarity to the query. */
#include <tinybert_rt.h>

#include <stdio.h>
#include <stdlib.h>

typedef struct {
    float score;
    const char *text;
} answer;

static int by_falling_score(const void *a, const void *b) {
    const float x = ((const answer *)a)->score, y = ((const answer *)b)->score;
    return (x < y) - (x > y);
}

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: rank MODEL QUERY TEXT...\n");
        return 2;
    }
    tbrt_error error;
    tbrt_model *model = NULL;
    tbrt_session *session = NULL;
    if (tbrt_model_open(argv[1], NULL, &model, &error) != TBRT_OK || tbrt_session_new(model, NULL, &session, &error) != TBRT_OK) {
        fprintf(stderr, "rank: %s\n", error.message);
        tbrt_model_close(model);
        return 2;
    }
    tbrt_model_info info = TBRT_MODEL_INFO_INIT;
    tbrt_model_get_info(model, &info);
    /* The query and the texts in one call; vectors of a model that normalizes have length 1, so a dot product is the cosine. */
    const size_t count = (size_t)argc - 2, dim = (size_t)info.dim;
    float *vectors = malloc(count * dim * sizeof *vectors);
    answer *answers = malloc(count * sizeof *answers);
    int status = vectors == NULL || answers == NULL
                     ? TBRT_OUT_OF_MEMORY
                     : tbrt_encode(session, (const char *const *)argv + 2, NULL, count, NULL, vectors, count * dim);
    if (status == TBRT_OK) {
        for (size_t i = 1; i < count; i++) {
            float score = 0;
            for (size_t j = 0; j < dim; j++)
                score += vectors[j] * vectors[i * dim + j];
            answers[i - 1] = (answer){score, argv[2 + i]};
        }
        qsort(answers, count - 1, sizeof *answers, by_falling_score);
        for (size_t i = 0; i + 1 < count; i++)
            printf("%.4f  %s\n", (double)answers[i].score, answers[i].text);
    } else {
        fprintf(stderr, "rank: %s: %s\n", tbrt_status_text(status), tbrt_session_message(session));
    }
    free(answers);
    free(vectors);
    tbrt_session_free(session);
    tbrt_model_close(model);
    return status == TBRT_OK ? 0 : 2;
}
