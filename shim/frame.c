/*
 * Growing buffers, and the frames of docs/protocol.md: writing, checking, reading.
 *
 * Pure: no descriptor, no clock. A payload that frame_check() accepts has only complete fields and
 * no unknown critical one. No function reads beyond the given bytes, whatever they contain.
 * Numbers are little-endian on every machine.
 */
#include "shim.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FIELD = 6, FIRST_ROOM = 4096 };

/* The callers bound the sizes, so this happens only if the machine has no memory left. */
static _Noreturn void out_of_memory(void)
{
    static const char document[] =
        "{\"cniVersion\": \"1.1.0\", \"code\": 11, \"msg\": \"out of memory\"}\n";
    ssize_t written = write(STDOUT_FILENO, document, sizeof document - 1);
    _exit(written ? 1 : 2);
}

void reserve(struct bytes *bytes, size_t more)
{
    size_t room = bytes->room ? bytes->room : FIRST_ROOM;
    while (room - bytes->size < more)
        room *= 2;
    if (room == bytes->room)
        return;
    unsigned char *at = realloc(bytes->at, room);
    if (!at)
        out_of_memory();
    bytes->at = at;
    bytes->room = room;
}

void release(struct bytes *bytes)
{
    free(bytes->at);
    *bytes = (struct bytes){0};
}

void put(struct bytes *bytes, const void *at, size_t size)
{
    reserve(bytes, size);
    if (size)
        memcpy(bytes->at + bytes->size, at, size);
    bytes->size += size;
}

void put_text(struct bytes *bytes, const char *text)
{
    put(bytes, text, strlen(text));
}

void put_decimal(struct bytes *bytes, uint64_t number)
{
    char digits[20];
    size_t at = sizeof digits;
    do
        digits[--at] = (char)('0' + number % 10);
    while (number /= 10);
    put(bytes, digits + at, sizeof digits - at);
}

const char *text_of(struct bytes *bytes)
{
    reserve(bytes, 1);
    bytes->at[bytes->size] = 0;
    return (const char *)bytes->at;
}

struct span span_of(const char *text)
{
    return (struct span){(const unsigned char *)text, strlen(text)};
}

bool span_text(struct span span, char *text, size_t room)
{
    if (span.size >= room || memchr(span.at, 0, span.size))
        return false;
    memcpy(text, span.at, span.size);
    text[span.size] = 0;
    return true;
}

static void store(unsigned char *at, uint32_t number, size_t size)
{
    for (size_t i = 0; i < size; i++, number >>= 8)
        at[i] = (unsigned char)number;
}

static uint32_t load(const unsigned char *at, size_t size)
{
    uint32_t number = 0;
    while (size--)
        number = number << 8 | at[size];
    return number;
}

/* Start a frame at the beginning of the buffer. */
void frame_begin(struct bytes *frame, enum type type)
{
    const unsigned char header[HEADER] = {VERSION, (unsigned char)type};
    frame->size = 0;
    put(frame, header, sizeof header);
}

void frame_field(struct bytes *frame, enum tag tag, const void *at, size_t size)
{
    unsigned char head[FIELD];
    store(head, tag, 2);
    store(head + 2, (uint32_t)size, 4);
    put(frame, head, sizeof head);
    put(frame, at, size);
}

void frame_number(struct bytes *frame, enum tag tag, uint32_t number)
{
    unsigned char value[4];
    store(value, number, sizeof value);
    frame_field(frame, tag, value, sizeof value);
}

void frame_end(struct bytes *frame)
{
    store(frame->at + 4, (uint32_t)(frame->size - HEADER), 4);
}

bool frame_header(const unsigned char header[HEADER], unsigned *type, size_t *size)
{
    *type = header[1];
    *size = load(header + 4, 4);
    return header[0] == VERSION && *size <= FRAME_LIMIT;
}

/* The next field; false at the end, and if what is left is not a complete field. */
static bool next_field(struct span *rest, unsigned *tag, struct span *value)
{
    if (rest->size < FIELD)
        return false;
    *tag = load(rest->at, 2);
    size_t size = load(rest->at + 2, 4);
    if (size > rest->size - FIELD)
        return false;
    *value = (struct span){rest->at + FIELD, size};
    rest->at += FIELD + size;
    rest->size -= FIELD + size;
    return true;
}

bool frame_check(struct span payload)
{
    unsigned tag;
    struct span value;
    while (next_field(&payload, &tag, &value))
        if (tag & CRITICAL)
            return false;
    return payload.size == 0;
}

/* Unknown tags are returned, too; callers ignore them. */
bool frame_next(struct span *rest, unsigned *tag, struct span *value)
{
    return next_field(rest, tag, value);
}

bool frame_get(struct span payload, enum tag tag, struct span *value)
{
    unsigned found;
    struct span each;
    bool there = false;
    while (next_field(&payload, &found, &each))
        if (found == tag) {
            *value = each;
            there = true;
        }
    return there;
}

bool frame_get_number(struct span payload, enum tag tag, uint32_t *number)
{
    struct span value;
    if (!frame_get(payload, tag, &value) || value.size != 4)
        return false;
    *number = load(value.at, 4);
    return true;
}
