/*
 * The entry point for libFuzzer (tools/fuzz): one of the three parsers of untrusted bytes, chosen
 * by -DTARGET=. Each gets exactly the input, so that a read beyond it is detected, and its results are
 * used as the shim uses them.
 */
#include "scan.c"

#include <stdlib.h>

void cannot_return(void)
{
    abort();
}

static void require(bool holds)
{
    if (!holds)
        abort();
}

static uint64_t sum; /* of every byte of the results, so that each is read */

static void use(struct span span)
{
    for (size_t i = 0; i < span.size; i++)
        sum += span.at[i];
}

static void frame(struct span data)
{
    unsigned type, tag;
    size_t size;
    uint32_t number;
    struct span value, key, rest;
    struct bytes path = {0};
    struct netns own = {-1, -1, ""};
    if (data.size < HEADER || !frame_header(data.at, &type, &size))
        return;
    require(size <= FRAME_LIMIT);
    struct span payload = {data.at + HEADER, data.size - HEADER};
    if (!frame_check(payload))
        return;
    for (rest = payload; frame_next(&rest, &tag, &value); use(value))
        require(tag < CRITICAL);
    require(rest.size == 0);
    for (unsigned each = 1; each < TAGS; each++) {
        if (frame_get(payload, each, &value))
            use(value);
        frame_get_number(payload, each, &number);
    }
    if (type == FIND || type == EXEC)
        find_delegate(payload, &path);
    else if (type == SYSCTL && !frame_get(payload, PATH, &value))
        require(set_sysctls(payload, &own, &key)); /* without PATH it must fail */
    release(&path);
}

static void json(struct span data)
{
    struct bytes quoted = {0};
    const char *version = cni_version(data);
    size_t known = 0;
    while (SUPPORTED[known] && SUPPORTED[known] != version)
        known++;
    require(SUPPORTED[known] != NULL);
    char *text = malloc(data.size + 1);
    if (data.size)
        memcpy(text, data.at, data.size);
    text[data.size] = 0;
    put_json(&quoted, text); /* which take_string() must accept */
    struct scan scan = {quoted.at + 1, quoted.at + quoted.size};
    char word[WORD];
    require(take_string(&scan, word) && scan.at == scan.end);
    valid_container_id(text);
    ifname_error(text);
    free(text);
    release(&quoted);
}

/* Go through prepared messages as they are sent. */
static void walk(const struct bytes *run)
{
    size_t at = 0;
    while (at < run->size) {
        struct nlmsghdr head;
        require(run->size - at >= sizeof head);
        memcpy(&head, run->at + at, sizeof head);
        require(head.size <= run->size - at && !(head.flags & NLM_F_CREATE));
        require(head.type == RTM_NEWLINK || head.type == RTM_DELLINK
            || head.type == RTM_DELLINKPROP);
        use((struct span){run->at + at, head.size});
        at += aligned(head.size, run->size - at);
    }
}

static void record(struct span data)
{
    struct bytes run = {0}, exact = {.at = malloc(data.size ? data.size : 1), .size = data.size};
    if (return_messages(data, "4:4026532561", 9, &run))
        walk(&run);
    if (data.size)
        memcpy(exact.at, data.at, data.size);
    if (prepare_messages(&exact, 9)) /* the bytes as the decoded messages of a record */
        walk(&exact);
    release(&run);
    release(&exact);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const targets[])(struct span) = {frame, json, record};
    (void)targets; /* each build uses one */
    TARGET((struct span){data, size});
    return 0;
}
