/* classify MODEL LABEL=EXAMPLE… : each line of standard input gets the label of the example that is nearest in meaning. */
#include <tinybert_rt.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LONGEST_LINE 65536

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: classify MODEL LABEL=EXAMPLE... < lines\n");
        return 2;
    }
    tbrt_error error;
    tbrt_model *model = NULL;
    tbrt_session *session = NULL;
    if (tbrt_model_open(argv[1], NULL, &model, &error) != TBRT_OK || tbrt_session_new(model, NULL, &session, &error) != TBRT_OK) {
        fprintf(stderr, "classify: %s\n", error.message);
        tbrt_model_close(model);
        return 2;
    }
    tbrt_model_info info = TBRT_MODEL_INFO_INIT;
    tbrt_model_get_info(model, &info);
    const size_t count = (size_t)argc - 2, dim = (size_t)info.dim;
    float *vectors = malloc((count + 1) * dim * sizeof *vectors); /* the examples', and the line's */
    const char **examples = malloc(count * sizeof *examples);
    char *line = malloc(LONGEST_LINE);
    int status = vectors == NULL || examples == NULL || line == NULL ? TBRT_OUT_OF_MEMORY : TBRT_OK, broken = 0;
    for (size_t i = 0; i < count && status == TBRT_OK; i++) {
        char *equals = strchr(argv[2 + i], '=');
        if (equals == NULL) {
            fprintf(stderr, "classify: '%s' is not LABEL=EXAMPLE\n", argv[2 + i]);
            status = TBRT_INVALID_ARGUMENT;
        } else {
            *equals = '\0';
            examples[i] = equals + 1;
        }
    }
    if (status == TBRT_OK)
        status = tbrt_encode(session, examples, NULL, count, NULL, vectors, count * dim);
    while (status == TBRT_OK && fgets(line, LONGEST_LINE, stdin) != NULL) {
        if (strchr(line, '\n') == NULL && !feof(stdin)) {
            fprintf(stderr, "classify: a line is longer than %d bytes\n", LONGEST_LINE - 2);
            broken = 1;
            break;
        }
        line[strcspn(line, "\n")] = '\0';
        const char *text = line;
        float *vector = vectors + count * dim, best = -2;
        size_t nearest = 0;
        status = tbrt_encode(session, &text, NULL, 1, NULL, vector, dim);
        for (size_t i = 0; i < count; i++) {
            float score = 0;
            for (size_t j = 0; j < dim; j++)
                score += vectors[i * dim + j] * vector[j];
            if (score > best)
                best = score, nearest = i;
        }
        if (status == TBRT_OK)
            printf("%s\t%.4f\t%s\n", argv[2 + nearest], (double)best, line);
    }
    if (status != TBRT_OK && *tbrt_session_message(session) != '\0')
        fprintf(stderr, "classify: %s\n", tbrt_session_message(session));
    if (ferror(stdin) || fflush(stdout) != 0) {
        perror("classify");
        broken = 1;
    }
    free(line);
    free(examples);
    free(vectors);
    tbrt_session_free(session);
    tbrt_model_close(model);
    return status == TBRT_OK && !broken ? 0 : 2;
}
