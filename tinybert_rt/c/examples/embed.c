/* embed MODEL: a line of standard input becomes a line of numbers, its vector. */
#include <tinybert_rt.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LONGEST_LINE 65536

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: embed MODEL < lines\n");
        return 2;
    }
    tbrt_error error;
    tbrt_model *model = NULL;
    tbrt_session *session = NULL;
    if (tbrt_model_open(argv[1], NULL, &model, &error) != TBRT_OK || tbrt_session_new(model, NULL, &session, &error) != TBRT_OK) {
        fprintf(stderr, "embed: %s\n", error.message);
        tbrt_model_close(model);
        return 2;
    }
    tbrt_model_info info = TBRT_MODEL_INFO_INIT;
    tbrt_model_get_info(model, &info);
    const size_t dim = (size_t)info.dim;
    float *vector = malloc(dim * sizeof *vector);
    char *line = malloc(LONGEST_LINE);
    int status = vector == NULL || line == NULL ? TBRT_OUT_OF_MEMORY : TBRT_OK, broken = 0;
    while (status == TBRT_OK && fgets(line, LONGEST_LINE, stdin) != NULL) {
        if (strchr(line, '\n') == NULL && !feof(stdin)) {
            fprintf(stderr, "embed: a line is longer than %d bytes\n", LONGEST_LINE - 2);
            broken = 1;
            break;
        }
        line[strcspn(line, "\n")] = '\0';
        const char *text = line;
        status = tbrt_encode(session, &text, NULL, 1, NULL, vector, dim);
        for (size_t i = 0; i < dim && status == TBRT_OK; i++)
            printf(i + 1 < dim ? "%.9g " : "%.9g\n", (double)vector[i]);
    }
    if (status != TBRT_OK && *tbrt_session_message(session) != '\0')
        fprintf(stderr, "embed: %s\n", tbrt_session_message(session));
    if (ferror(stdin) || fflush(stdout) != 0) {
        perror("embed");
        broken = 1;
    }
    free(line);
    free(vector);
    tbrt_session_free(session);
    tbrt_model_close(model);
    return status == TBRT_OK && !broken ? 0 : 2;
}
