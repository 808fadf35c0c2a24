/* Models: files and memory, opened and checked by the kernels. */
#include "internal.h"

#include "messages.h"

#include <stdio.h>
#include <string.h>

#define LONGEST_NAME 255

/* A file that cannot be mapped; `reason`: the system's words for it, or "". */
static void fail_to_open(tbrt_error *error, int status, const char *name, const char *reason) {
    if (error == NULL)
        return;
    error->status = status;
    tbrt_render_file_error(error->message, sizeof error->message, name, status, NULL, NULL, 0);
    const size_t used = strlen(error->message);
    if (*reason != '\0')
        snprintf(error->message + used, sizeof error->message - used, ": %s", reason);
}

static int open_checked(tbrt_model *model, const char *name, tbrt_error *error) {
    const tbrt_allocator *allocator = &model->allocator;
    const size_t entries_size = TBRT_MAX_TENSORS * sizeof(kernel_tensor_entry);
    model->kernel = tbrt_allocate(allocator, TBRT_MODEL_BYTES);
    void *entries = tbrt_allocate(allocator, entries_size);
    int status = TBRT_OUT_OF_MEMORY;
    if (model->kernel == NULL || entries == NULL) {
        tbrt_fail(error, status, "out of memory while opening the model");
    } else {
        memset(model->kernel, 0, TBRT_MODEL_BYTES);
        kernel_error_info info = {0, -1, -1, 0};
        status = (int)model->level->kernels.model_open(address(model->data), (int64_t)model->size, address(entries), TBRT_MAX_TENSORS,
                                                       model->kernel, &info);
        if (status != TBRT_OK && error != NULL) {
            error->status = status;
            tbrt_render_file_error(error->message, sizeof error->message, name, status, &info, model->data, model->size);
        }
    }
    tbrt_release(allocator, entries, entries_size);
    return status;
}

static void free_model(tbrt_model *model) {
    const tbrt_allocator allocator = model->allocator;
    tbrt_unmap_file(&model->mapping);
    tbrt_release(&allocator, model->kernel, TBRT_MODEL_BYTES);
    tbrt_release(&allocator, model, sizeof *model);
}

/* A name short enough to leave a message room for what is wrong: of a long one the end, from the start of a character on. */
static const char *last_part(const char *name) {
    const size_t size = strlen(name);
    if (size > LONGEST_NAME) {
        name += size - LONGEST_NAME;
        while (((unsigned char)*name & 0xc0) == 0x80)
            name++;
    }
    return name;
}

/* A model of a path, or (path NULL) of memory. */
static int open_model(const char *path, const void *data, size_t size, const tbrt_model_options *given, tbrt_model **result,
                      tbrt_error *error) {
    tbrt_fail(error, TBRT_OK, "");
    if (result == NULL)
        return tbrt_fail(error, TBRT_INVALID_ARGUMENT, "model is NULL: pass the address of a tbrt_model *");
    *result = NULL;
    tbrt_model_options options = TBRT_MODEL_OPTIONS_INIT;
    if (!tbrt_read_struct(&options, sizeof options, given))
        return tbrt_fail(error, TBRT_INVALID_ARGUMENT, UNKNOWN_OPTIONS);
    tbrt_allocator allocator = options.allocator;
    if ((allocator.allocate == NULL) != (allocator.release == NULL))
        return tbrt_fail(error, TBRT_INVALID_ARGUMENT, "options: an allocator needs both allocate and release");
    if (allocator.allocate == NULL)
        allocator = (tbrt_allocator){tbrt_system_allocate, tbrt_system_release, NULL};
    const tbrt_level *level;
    int status = tbrt_choose_level(options.isa, &level, error);
    if (status != TBRT_OK)
        return status;

    tbrt_model *model = tbrt_allocate(&allocator, sizeof *model);
    if (model == NULL)
        return tbrt_fail(error, TBRT_OUT_OF_MEMORY, "out of memory while opening the model");
    memset(model, 0, sizeof *model);
    atomic_init(&model->owners, 1);
    model->level = level;
    model->allocator = allocator;
    model->log = options.log;
    model->log_user = options.log_user;
    const char *name = last_part(options.name != NULL ? options.name : path != NULL ? path : "<memory>");
    if (path != NULL) {
        char reason[128] = "";
        status = tbrt_map_file(path, &model->mapping, reason, sizeof reason);
        if (status == TBRT_OUT_OF_MEMORY)
            tbrt_fail(error, status, "out of memory while opening the model");
        else if (status != TBRT_OK)
            fail_to_open(error, status, name, reason);
        data = model->mapping.data;
        size = model->mapping.size;
    }
    model->data = data;
    model->size = size;
    if (status == TBRT_OK && size == 0)
        fail_to_open(error, status = TBRT_EMPTY_FILE, name, "");
    if (status == TBRT_OK)
        status = open_checked(model, name, error);
    if (status != TBRT_OK) {
        free_model(model);
        return status;
    }
    char line[TBRT_MESSAGE_SIZE];
    snprintf(line, sizeof line, "opened %s: %d layers, hidden size %d, %s", name, (int)model->kernel->num_layers,
             (int)model->kernel->hidden_size, level->name);
    tbrt_say(model, line);
    *result = model;
    return TBRT_OK;
}

int tbrt_model_open(const char *path, const tbrt_model_options *options, tbrt_model **model, tbrt_error *error) {
    if (path == NULL || *path == '\0') {
        if (model != NULL)
            *model = NULL;
        return tbrt_fail(error, TBRT_INVALID_ARGUMENT, path == NULL ? "path is NULL" : "path is empty");
    }
    return open_model(path, NULL, 0, options, model, error);
}

int tbrt_model_open_memory(const void *data, size_t size, const tbrt_model_options *options, tbrt_model **model, tbrt_error *error) {
    if (data == NULL || size > LONGEST_TEXT) {
        if (model != NULL)
            *model = NULL;
        return tbrt_fail(error, TBRT_INVALID_ARGUMENT, data == NULL ? "data is NULL" : "size is larger than memory can be");
    }
    return open_model(NULL, data, size, options, model, error);
}

void tbrt_model_close(tbrt_model *model) {
    if (model != NULL && atomic_fetch_sub(&model->owners, 1) == 1)
        free_model(model);
}

int tbrt_model_get_info(const tbrt_model *model, tbrt_model_info *info) {
    static const char *const poolings[] = {TBRT_POOLING_NAMES};
    static const char *const architectures[] = {TBRT_ARCHITECTURE_NAMES};
    static const char *const heads[] = {TBRT_HEAD_NAMES};
    if (model == NULL)
        return TBRT_INVALID_ARGUMENT;
    const kernel_model *kernel = model->kernel;
    uint64_t header_size = 0;
    for (int i = 0; i < 8; i++) /* little-endian, the first 8 bytes of the file */
        header_size |= (uint64_t)model->data[i] << (8 * i);
    const tbrt_model_info known = {
        .struct_size = sizeof known,
        .dim = (int32_t)kernel->hidden_size,
        .max_tokens = (int32_t)kernel->max_tokens,
        .max_positions = (int32_t)kernel->max_positions,
        .vocab_size = (int32_t)kernel->vocab_size,
        .num_layers = (int32_t)kernel->num_layers,
        .num_heads = (int32_t)kernel->num_heads,
        .intermediate_size = (int32_t)kernel->intermediate_size,
        .int8_weights = kernel->weight_dtype != 0,
        .normalized = kernel->normalize != 0,
        .pooling = poolings[kernel->pooling],
        .isa = model->level->name,
        .header = (const char *)model->data + 8,
        .header_size = (size_t)header_size,
        .file_size = model->size,
        .architecture = kernel->architecture < (int64_t)(sizeof architectures / sizeof *architectures) ? architectures[kernel->architecture] : "unknown",
        .head = heads[kernel->head],
        .labels = (int32_t)kernel->labels,
    };
    return tbrt_write_struct(info, &known, sizeof known);
}

/* A string of the file: bytes one behind the other, and uint32 offsets of any alignment. */
static void string_of(int64_t texts, int64_t offsets, int32_t index, const char **text, size_t *size) {
    uint32_t limits[2];
    memcpy(limits, (const unsigned char *)(uintptr_t)offsets + 4 * (size_t)index, sizeof limits);
    *text = (const char *)(uintptr_t)texts + limits[0];
    *size = limits[1] - limits[0];
}

int tbrt_model_piece(const tbrt_model *model, int32_t id, const char **piece, size_t *size) {
    if (model == NULL || piece == NULL || size == NULL)
        return TBRT_INVALID_ARGUMENT;
    const kernel_tokenizer *tokenizer = &model->kernel->tokenizer;
    if (id < 0 || id >= tokenizer->vocab_size)
        return TBRT_TOKEN_ID;
    string_of(tokenizer->pieces, tokenizer->piece_offsets, id, piece, size);
    return TBRT_OK;
}

int tbrt_model_label(const tbrt_model *model, int32_t index, const char **label, size_t *size) {
    if (model == NULL || label == NULL || size == NULL || index < 0 || index >= model->kernel->labels)
        return TBRT_INVALID_ARGUMENT;
    string_of(model->kernel->label_texts, model->kernel->label_offsets, index, label, size);
    return TBRT_OK;
}
