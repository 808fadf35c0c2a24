/* What there is to see inside: hidden states of every layer, attention probabilities. */
#include "internal.h"

#include <stdio.h>

/* `count` times `one` floats, or SIZE_MAX where they fit no memory. */
static size_t times(size_t one, uint64_t count) {
    return count > SIZE_MAX / sizeof(float) / one ? SIZE_MAX : one * (size_t)count;
}

/* Whether offsets rise from 0, by at most max_positions each. */
static int check_offsets(tbrt_session *session, const int64_t *offsets, size_t count) {
    const int64_t longest = session->model->kernel->max_positions;
    if (offsets[0] != 0)
        return tbrt_complain(session, TBRT_INVALID_ARGUMENT, "offsets must begin with 0");
    for (size_t i = 0; i < count; i++) {
        if (offsets[i + 1] > offsets[i] && offsets[i + 1] - offsets[i] <= longest)
            continue;
        session->report.text = (int64_t)i;
        if (offsets[i + 1] < offsets[i]) {
            snprintf(session->message, sizeof session->message, "offsets do not rise at text %lld: from %lld to %lld", (long long)i,
                     (long long)offsets[i], (long long)offsets[i + 1]);
            return TBRT_INVALID_ARGUMENT;
        }
        return tbrt_complain_of_text(session, TBRT_INVALID_ARGUMENT, (int64_t)i, offsets[i + 1] - offsets[i], longest);
    }
    return TBRT_OK;
}

static int look_inside(tbrt_session *session, const int32_t *ids, const uint8_t *types, const int64_t *offsets, size_t count, int layers,
                       float *out, size_t size, size_t *needed) {
    tbrt_encode_options options;
    int status = tbrt_read_encode_options(session, NULL, &options, 0, 0);
    if (status != TBRT_OK || count == 0)
        return status;
    if (ids == NULL || offsets == NULL || (out == NULL && size != 0))
        return tbrt_complain(session, TBRT_INVALID_ARGUMENT,
                             ids == NULL ? "ids is NULL" : offsets == NULL ? "offsets is NULL" : "the results have no place: NULL");
    status = check_offsets(session, offsets, count);
    if (status != TBRT_OK)
        return status;
    const kernel_model *model = session->model->kernel;
    size_t floats = 0;
    if (layers) {
        floats = times((size_t)(model->num_layers + 1) * (size_t)model->hidden_size, (uint64_t)offsets[count]);
    } else {
        for (size_t i = 0; i < count && floats != SIZE_MAX; i++) {
            const size_t maps = tbrt_attention_maps(model, offsets[i + 1] - offsets[i]);
            floats = maps > SIZE_MAX / sizeof(float) - floats ? SIZE_MAX : floats + maps;
        }
    }
    if (needed != NULL)
        *needed = floats;
    if (floats > size) {
        snprintf(session->message, sizeof session->message, "there is room for %zu floats, %zu are needed", size, floats);
        return TBRT_BUFFER_TOO_SMALL;
    }
    const tbrt_places to = {.layers = layers ? out : NULL, .attentions = layers ? NULL : out};
    return tbrt_encode_ids_to(session, ids, types, offsets, count, &options, &to);
}

int tbrt_layer_states(tbrt_session *session, const int32_t *ids, const uint8_t *types, const int64_t *offsets, size_t count, float *states,
                      size_t states_size, size_t *needed) {
    const int status = tbrt_enter(session);
    if (status != TBRT_OK)
        return status;
    if (needed != NULL)
        *needed = 0;
    return tbrt_leave(session, look_inside(session, ids, types, offsets, count, 1, states, states_size, needed));
}

int tbrt_attentions(tbrt_session *session, const int32_t *ids, const uint8_t *types, const int64_t *offsets, size_t count, float *attentions,
                    size_t attentions_size, size_t *needed) {
    const int status = tbrt_enter(session);
    if (status != TBRT_OK)
        return status;
    if (needed != NULL)
        *needed = 0;
    return tbrt_leave(session, look_inside(session, ids, types, offsets, count, 0, attentions, attentions_size, needed));
}
