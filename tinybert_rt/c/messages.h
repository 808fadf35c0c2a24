/* What a status code means, in words. The words themselves are generated from the Python package: see message_table.h. */
#ifndef TBRT_MESSAGES_H
#define TBRT_MESSAGES_H

#include <stddef.h>
#include <stdint.h>

#include "kernels.h"

/* Both renderers write at most out_size bytes including the terminating NUL, and cut a longer message between two UTF-8
 * characters; out may be NULL if out_size is 0. They accept any values. */

/* "NAME: what is wrong with the file". name: in UTF-8; NULL: "<memory>". info: what model_open said of the failure; NULL:
 * nothing is known. data: the file's bytes, or at least its header; NULL: there are none. */
void tbrt_render_file_error(char *out, size_t out_size, const char *name, int status, const kernel_error_info *info,
                            const unsigned char *data, size_t data_size);

/* What is wrong with text number `item` of a request, or with the request as a whole if item is negative. */
void tbrt_render_text_error(char *out, size_t out_size, int status, int64_t item, int64_t tokens, int64_t limit);

/* What a status means in general; never NULL. */
const char *tbrt_status_words(int status);

#endif
