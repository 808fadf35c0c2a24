/* A part of test_api: hidden states of every layer and attention probabilities. */
static void test_inside(tbrt_model *model, size_t dim, size_t layers, size_t heads) {
    tbrt_session_options threads = TBRT_SESSION_OPTIONS_INIT;
    threads.threads = 3;
    tbrt_session *session = NULL;
    CHECK(tbrt_session_new(model, &threads, &session, NULL) == TBRT_OK);
    const int32_t ids[8] = {2, 5, 6, 7, 3, 5, 6, 3};
    const int64_t offsets[3] = {0, 5, 8}, falling[3] = {0, 5, 3}, huge[3] = {0, 5, (int64_t)1 << 57}, begins[2] = {1, 3};
    const size_t states = (layers + 1) * 8 * dim, maps = layers * heads * (25 + 9);
    size_t needed = 7;
    CHECK(tbrt_layer_states(session, ids, NULL, offsets, 2, NULL, 0, &needed) == TBRT_BUFFER_TOO_SMALL && needed == states);
    CHECK(tbrt_attentions(session, ids, NULL, offsets, 2, NULL, 0, &needed) == TBRT_BUFFER_TOO_SMALL && needed == maps);
    float *room = malloc((states > maps ? states : maps) * sizeof *room), last[8 * 64];
    CHECK(tbrt_layer_states(session, ids, NULL, offsets, 2, room, states - 1, &needed) == TBRT_BUFFER_TOO_SMALL && needed == states);
    CHECK(tbrt_layer_states(session, ids, NULL, offsets, 2, room, states, NULL) == TBRT_OK && *tbrt_session_message(session) == '\0');
    CHECK(tbrt_hidden_states(session, ids, NULL, offsets, 2, last, 8 * dim) == TBRT_OK);
    CHECK(memcmp(room + layers * 8 * dim, last, 8 * dim * sizeof *last) == 0);
    CHECK(tbrt_attentions(session, ids, NULL, offsets, 2, room, maps - 1, NULL) == TBRT_BUFFER_TOO_SMALL);
    CHECK(tbrt_attentions(session, ids, NULL, offsets, 2, room, maps, &needed) == TBRT_OK && needed == maps);
    for (size_t row = 0; row < layers * heads * (5 + 3); row++) {
        const size_t first = layers * heads * 5, tokens = row < first ? 5 : 3;
        const float *at = row < first ? room + row * 5 : room + first * 5 + (row - first) * 3;
        float sum = 0;
        for (size_t i = 0; i < tokens; i++)
            sum += at[i];
        CHECK(sum > 0.9999F && sum < 1.0001F);
    }
    for (int both = 0; both < 2; both++) {
        int (*look)(tbrt_session *, const int32_t *, const uint8_t *, const int64_t *, size_t, float *, size_t, size_t *) =
            both ? tbrt_attentions : tbrt_layer_states;
        CHECK(look(session, ids, NULL, falling, 2, room, 1, &needed) == TBRT_INVALID_ARGUMENT && needed == 0);
        CHECK(strcmp(tbrt_session_message(session), "offsets do not rise at text 1: from 5 to 3") == 0);
        CHECK(look(session, ids, NULL, huge, 2, room, SIZE_MAX, NULL) == TBRT_INVALID_ARGUMENT && *tbrt_session_message(session) != '\0');
        CHECK(look(session, ids, NULL, begins, 1, room, 1, NULL) == TBRT_INVALID_ARGUMENT);
        CHECK(look(session, ids, NULL, offsets, 2, NULL, SIZE_MAX, NULL) == TBRT_INVALID_ARGUMENT);
        CHECK(look(session, NULL, NULL, offsets, 2, room, states, NULL) == TBRT_INVALID_ARGUMENT);
        CHECK(look(session, ids, NULL, NULL, 2, room, states, NULL) == TBRT_INVALID_ARGUMENT);
        CHECK(look(session, ids, NULL, offsets, 0, NULL, 0, &needed) == TBRT_OK && needed == 0);
        CHECK(look(NULL, ids, NULL, offsets, 2, room, states, NULL) == TBRT_INVALID_ARGUMENT);
    }
    free(room);
    tbrt_session_free(session);
}
