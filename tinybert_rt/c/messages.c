#include "messages.h"

#include <string.h>

#include "message_table.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

typedef struct {
    char *out;
    size_t size; /* of out, without the NUL */
    size_t used;
    int cut;
} writer;

typedef struct {
    const unsigned char *bytes;
    size_t size;
} slice;

/* All that placeholders stand for. */
typedef struct {
    int status;
    int64_t detail;
    int64_t position;
    slice tensor;
    slice excerpt;
    int64_t item;
    int64_t tokens;
    int64_t limit;
} values;

/* ---------------------------------------------------------------- writing */

static void put_char(writer *to, char c) {
    if (to->used < to->size) {
        to->out[to->used++] = c;
    } else {
        to->cut = 1;
    }
}

static void put_text(writer *to, const char *text) {
    for (; *text != '\0' && !to->cut; text++) {
        put_char(to, *text);
    }
}

static void put_digits(writer *to, uint64_t value, int grouped) {
    char digits[20];
    int count = 0;
    do {
        digits[count++] = (char)('0' + (int)(value % 10));
        value /= 10;
    } while (value != 0);
    while (count > 0) {
        put_char(to, digits[--count]);
        if (grouped && count > 0 && count % 3 == 0) {
            put_char(to, ',');
        }
    }
}

static void put_number(writer *to, int64_t value, int grouped) {
    if (value < 0) {
        put_char(to, '-');
    }
    put_digits(to, value < 0 ? 0 - (uint64_t)value : (uint64_t)value, grouped);
}

/* Bytes of a file: all but the printable ones of ASCII as \xNN, so that a message has one line. */
static void put_escaped(writer *to, slice from) {
    static const char hex[] = "0123456789abcdef";
    for (size_t i = 0; i < from.size && !to->cut; i++) {
        unsigned char byte = from.bytes[i];
        if (byte >= 0x20 && byte < 0x7F) {
            put_char(to, (char)byte);
        } else {
            put_text(to, "\\x");
            put_char(to, hex[byte >> 4]);
            put_char(to, hex[byte & 15]);
        }
    }
}

static size_t character_size(unsigned char lead) {
    return lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

static writer begin(char *out, size_t out_size) {
    writer to = {out, out_size > 0 ? out_size - 1 : 0, 0, 0};
    return to;
}

/* Terminate the message; where it was cut, without the bytes of a character of which the rest did not fit. */
static void finish(writer *to, size_t out_size) {
    if (out_size == 0) {
        return;
    }
    if (to->cut) {
        size_t lead = to->used;
        while (lead > 0 && to->used - lead < 3 && ((unsigned char)to->out[lead - 1] & 0xC0) == 0x80) {
            lead--;
        }
        if (lead > 0 && character_size((unsigned char)to->out[lead - 1]) > to->used - lead + 1) {
            to->used = lead - 1;
        }
    }
    to->out[to->used] = '\0';
}

/* ---------------------------------------------------------------- placeholders */

/* The part [offset, offset + size) of the data, as far as it exists. */
static slice part(const unsigned char *data, size_t data_size, int64_t offset, int64_t size) {
    slice none = {NULL, 0};
    if (data == NULL || offset < 0 || size <= 0 || (uint64_t)offset >= data_size) {
        return none;
    }
    slice found = {data + (size_t)offset, data_size - (size_t)offset};
    if ((uint64_t)size < found.size) {
        found.size = (size_t)size;
    }
    return found;
}

static int within(int64_t index, size_t count) { return index >= 0 && (uint64_t)index < count; }

static void put_field(writer *to, int64_t index) {
    if (within(index, COUNT(tbrt_fields))) {
        put_text(to, tbrt_fields[index].name);
    } else {
        put_text(to, "reserved element ");
        put_number(to, index, 0);
    }
}

static void put_bounds(writer *to, int64_t index) {
    if (within(index, COUNT(tbrt_fields))) {
        put_text(to, "from ");
        put_number(to, tbrt_fields[index].low, 0);
        put_text(to, " to ");
        put_number(to, tbrt_fields[index].high, 0);
    } else {
        put_text(to, TBRT_UNKNOWN_BOUNDS);
    }
}

/* The name of a tensor from the parser's number for it: (layer + 1) * 65536 + rule. */
static void put_rule(writer *to, int64_t place) {
    size_t rule = (size_t)((uint64_t)place & 0xFFFF);
    if (place >= 65536) {
        put_text(to, "layers.");
        put_number(to, place / 65536 - 1, 0);
        put_char(to, '.');
    }
    put_text(to, rule < COUNT(tbrt_rules) ? tbrt_rules[rule] : "?");
}

static void put_word(writer *to, slice excerpt) {
    const void *quote = excerpt.size > 0 ? memchr(excerpt.bytes, '"', excerpt.size) : NULL;
    if (quote != NULL) {
        excerpt.size = (size_t)((const unsigned char *)quote - excerpt.bytes);
    }
    put_escaped(to, excerpt);
}

static void put_template(writer *to, const char *template, const values *from) {
    for (; *template != '\0' && !to->cut; template++) {
        switch (*template) {
        case TBRT_PUT_STATUS: put_number(to, from->status, 0); break;
        case TBRT_PUT_DETAIL: put_number(to, from->detail, 0); break;
        case TBRT_PUT_DETAIL_GROUPED: put_number(to, from->detail, 1); break;
        case TBRT_PUT_UNSIGNED_GROUPED: put_digits(to, (uint64_t)from->detail, 1); break;
        case TBRT_PUT_POSITION: put_number(to, from->position, 0); break;
        case TBRT_PUT_POSITION_GROUPED: put_number(to, from->position, 1); break;
        case TBRT_PUT_TENSOR: put_escaped(to, from->tensor); break;
        case TBRT_PUT_EXCERPT: put_escaped(to, from->excerpt); break;
        case TBRT_PUT_WORD: put_word(to, from->excerpt); break;
        case TBRT_PUT_RULE: put_rule(to, from->detail); break;
        case TBRT_PUT_FIELD: put_field(to, from->detail); break;
        case TBRT_PUT_BOUNDS: put_bounds(to, from->detail); break;
        case TBRT_PUT_DTYPE: put_text(to, within(from->detail, COUNT(tbrt_dtypes)) ? tbrt_dtypes[from->detail] : "?"); break;
        case TBRT_PUT_ITEM: put_number(to, from->item, 0); break;
        case TBRT_PUT_TOKENS: put_number(to, from->tokens, 0); break;
        case TBRT_PUT_LIMIT: put_number(to, from->limit, 0); break;
        default: put_char(to, *template);
        }
    }
}

static const char *choose(const tbrt_template *templates, size_t count, const char *fallback, const values *from) {
    for (size_t i = 0; i < count; i++) {
        if (templates[i].status == from->status) {
            int held = (templates[i].condition == TBRT_NO_DETAIL && from->detail == 0) ||
                       (templates[i].condition == TBRT_NO_TENSOR && from->tensor.size == 0);
            return held ? templates[i].alternative : templates[i].text;
        }
    }
    return fallback;
}

/* ---------------------------------------------------------------- what others call */

void tbrt_render_file_error(char *out, size_t out_size, const char *name, int status, const kernel_error_info *info,
                            const unsigned char *data, size_t data_size) {
    kernel_error_info nothing = {0, -1, -1, 0};
    if (info == NULL) {
        info = &nothing;
    }
    values from = {0};
    from.status = status;
    from.detail = info->detail;
    from.position = info->position;
    from.tensor = part(data, data_size, info->name_offset, info->name_size);
    from.excerpt = part(data, data_size, info->position > 0 ? info->position : 0, TBRT_EXCERPT_BYTES);
    writer to = begin(out, out_size);
    put_text(&to, name != NULL ? name : "<memory>");
    put_text(&to, ": ");
    put_template(&to, choose(tbrt_file_templates, COUNT(tbrt_file_templates), TBRT_FILE_FALLBACK, &from), &from);
    finish(&to, out_size);
}

void tbrt_render_text_error(char *out, size_t out_size, int status, int64_t item, int64_t tokens, int64_t limit) {
    values from = {0};
    from.status = status;
    from.item = item;
    from.tokens = tokens;
    from.limit = limit;
    writer to = begin(out, out_size);
    if (item < 0) {
        put_text(&to, TBRT_REQUEST_MESSAGE);
    } else {
        put_template(&to, choose(tbrt_text_templates, COUNT(tbrt_text_templates), TBRT_TEXT_FALLBACK, &from), &from);
    }
    finish(&to, out_size);
}

const char *tbrt_status_words(int status) {
    for (size_t i = 0; i < COUNT(tbrt_words); i++) {
        if (tbrt_words[i].status == status) {
            return tbrt_words[i].words;
        }
    }
    return "unknown status";
}
