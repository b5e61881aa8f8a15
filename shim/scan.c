/*
 * Parsing of untrusted text, as far as the shim needs it: the cniVersion of a configuration, the
 * names that make a file name, the netlink messages at the beginning of a record.
 *
 * Pure, bounded, and without recursion.
 */
#include "shim.h"

#include <string.h>

const char *const SUPPORTED[] = {
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", NULL};

enum {
    WORD = 16,      /* room for the longest text to compare with, and its NUL */
    FOREIGN = 0xff  /* stands for a character that no such text contains */
};

struct scan {
    const unsigned char *at, *end;
};

static bool take_word(struct scan *scan, const char *word)
{
    size_t size = strlen(word);
    if ((size_t)(scan->end - scan->at) < size || memcmp(scan->at, word, size) != 0)
        return false;
    scan->at += size;
    return true;
}

static int hex(unsigned char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The character of an escape sequence, after its backslash; -1: invalid. */
static int escape(struct scan *scan)
{
    static const char names[] = "\"\\/bfnrt", means[] = "\"\\/\b\f\n\r\t";
    if (scan->at == scan->end)
        return -1;
    unsigned char c = *scan->at++;
    const char *name = memchr(names, c, sizeof names - 1);
    if (name)
        return means[name - names];
    if (c != 'u' || scan->end - scan->at < 4)
        return -1;
    int number = 0;
    for (int i = 0; i < 4; i++) {
        int digit = hex(*scan->at++);
        if (digit < 0)
            return -1;
        number = number << 4 | digit;
    }
    return number && number < 0x80 ? number : FOREIGN;
}

/* Read a string after its first quote. text gets its value, or "" if it is too long. */
static bool take_string(struct scan *scan, char text[WORD])
{
    size_t size = 0;
    while (scan->at < scan->end) {
        int c = *scan->at++;
        if (c == '"') {
            text[size < WORD ? size : 0] = 0;
            return true;
        }
        if (c == '\\')
            c = escape(scan);
        else if (c < 0x20)
            c = -1;
        if (c < 0)
            return false;
        if (size < WORD)
            text[size++] = (char)c;
    }
    return false;
}

/*
 * The cniVersion at the top level of a configuration; the last one, if there are several. Only
 * brackets, colons and strings are parsed; the text is not checked to be JSON. If it is not, the
 * daemon's parser reports it, and any supported version is right for the answer.
 */
const char *cni_version(struct span json)
{
    struct scan scan = {json.at, json.at + json.size};
    char text[WORD] = "", version[WORD] = "";
    size_t depth = 0;
    bool named = false; /* the next value is the cniVersion */
    while (scan.at < scan.end) {
        unsigned char c = *scan.at++;
        if (memchr(" \t\n\r", c, 4))
            continue;
        if (c == '"' && !take_string(&scan, text))
            break;
        if (named)
            memcpy(version, c == '"' ? text : "", c == '"' ? WORD : 1);
        named = c == ':' && depth == 1 && !strcmp(text, "cniVersion");
        if (c == '{' || c == '[')
            depth++;
        else if ((c == '}' || c == ']') && depth)
            depth--;
    }
    const char *const *each = SUPPORTED;
    while (each[1] && strcmp(*each, version) != 0)
        each++;
    return *each;
}

/* Source: RFC 3629, section 4: the first byte determines the bounds of the second. */
size_t utf8_size(struct span text)
{
    if (!text.size)
        return 0;
    unsigned char first = text.at[0], low = 0x80, high = 0xbf;
    size_t size = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if ((first >= 0x80 && first < 0xc2) || first > 0xf4)
        return 0;
    if (size > text.size)
        return 0;
    if (first == 0xe0)
        low = 0xa0;
    else if (first == 0xed)
        high = 0x9f;
    else if (first == 0xf0)
        low = 0x90;
    else if (first == 0xf4)
        high = 0x8f;
    for (size_t i = 1; i < size; i++, low = 0x80, high = 0xbf)
        if (text.at[i] < low || text.at[i] > high)
            return 0;
    return size;
}

void put_json(struct bytes *bytes, const char *text)
{
    struct span rest = span_of(text);
    put_text(bytes, "\"");
    while (rest.size) {
        size_t size = utf8_size(rest);
        if (*rest.at < 0x20 || *rest.at == '"' || *rest.at == '\\') {
            const char digits[] = "0123456789abcdef";
            const char code[] = {'\\', 'u', '0', '0', digits[*rest.at >> 4], digits[*rest.at & 15]};
            put(bytes, code, sizeof code);
        } else if (size)
            put(bytes, rest.at, size);
        else
            put_text(bytes, "\\ufffd");
        rest.at += size ? size : 1;
        rest.size -= size ? size : 1;
    }
    put_text(bytes, "\"");
}

static bool letter_or_digit(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

/* Source: CNI SPEC 1.1.0, section "Parameters". */
bool valid_container_id(const char *id)
{
    if (!letter_or_digit(*id))
        return false;
    while (*++id)
        if (!letter_or_digit(*id) && !strchr("_.-", *id))
            return false;
    return true;
}

/* The messages are those of service/request.py. Source: net/core/dev.c, dev_valid_name(). */
const char *ifname_error(const char *name)
{
    struct span rest = span_of(name);
    if (rest.size >= IFNAMSIZ)
        return "an interface name has at most 15 bytes";
    if (!strcmp(name, ".") || !strcmp(name, "..") || strpbrk(name, "/:% \t\n\r\f\v\xa0"))
        return "an interface name has no '/', ':', '%' or white space, and is not '.' or '..'";
    for (size_t size; rest.size; rest.at += size, rest.size -= size)
        if (!(size = utf8_size(rest)))
            return "an interface name is UTF-8 here";
    return NULL;
}

/*
 * The part of netlink that the messages of a record use, in host byte order. Source:
 * include/uapi/linux/netlink.h, if_link.h, rtnetlink.h.
 */
enum {
    NLMSGHDR = 16, IFINFOMSG = 16, RTATTR = 4,
    NLM_F_REQUEST = 1, NLM_F_ACK = 4, NLM_F_CREATE = 0x400,
    RTM_NEWLINK = 16, RTM_DELLINK = 17, RTM_DELLINKPROP = 109,
    IFLA_NET_NS_FD = 28, NLA_TYPE_MASK = 0x3fff
};

struct rtattr {
    uint16_t size, type;
};

static size_t aligned(size_t size, size_t all)
{
    size = (size + 3) & ~(size_t)3;
    return size < all ? size : all; /* the last one need not be padded */
}

/* Write the descriptor of the host's namespace into each IFLA_NET_NS_FD attribute. */
static bool set_target(unsigned char *at, size_t size, int32_t host)
{
    while (size) {
        struct rtattr attr;
        if (size < RTATTR)
            return false;
        memcpy(&attr, at, sizeof attr);
        if (attr.size < RTATTR || attr.size > size)
            return false;
        if ((attr.type & NLA_TYPE_MASK) == IFLA_NET_NS_FD) {
            if (attr.size != RTATTR + sizeof host)
                return false;
            memcpy(at + RTATTR, &host, sizeof host);
        }
        size_t step = aligned(attr.size, size);
        at += step;
        size -= step;
    }
    return true;
}

/* Check each message, number it, and request an acknowledgement. */
static bool prepare_messages(struct bytes *messages, int32_t host)
{
    uint32_t number = 0;
    for (size_t at = 0; at < messages->size;) {
        struct nlmsghdr head;
        unsigned char *message = messages->at + at;
        size_t rest = messages->size - at;
        if (rest < NLMSGHDR)
            return false;
        memcpy(&head, message, sizeof head);
        if (head.size < NLMSGHDR + IFINFOMSG || head.size > rest || head.flags & NLM_F_CREATE
            || (head.type != RTM_NEWLINK && head.type != RTM_DELLINK
                && head.type != RTM_DELLINKPROP)
            || !set_target(message + NLMSGHDR + IFINFOMSG, head.size - NLMSGHDR - IFINFOMSG, host))
            return false;
        head.flags = NLM_F_REQUEST | NLM_F_ACK;
        head.number = ++number;
        head.port = 0;
        memcpy(message, &head, sizeof head);
        at += aligned(head.size, rest);
    }
    return true;
}

static bool take_hex(struct scan *scan, struct bytes *messages)
{
    while (scan->end - scan->at >= 2 && *scan->at != '"') {
        int high = hex(scan->at[0]), low = hex(scan->at[1]);
        if (high < 0 || low < 0)
            return false;
        unsigned char byte = (unsigned char)(high << 4 | low);
        put(messages, &byte, 1);
        scan->at += 2;
    }
    return true;
}

/*
 * The messages at the beginning of a record for the pod's namespace, ready to be sent; they move
 * links to the namespace of the descriptor host. Only the very beginning of the file is parsed:
 * what a user can write, the configuration, comes later.
 */
bool return_messages(struct span record, const char *pod, int32_t host, struct bytes *messages)
{
    struct scan scan = {record.at, record.at + record.size};
    messages->size = 0;
    return *pod && take_word(&scan, "{\n \"way_home\": \"") && take_hex(&scan, messages)
        && take_word(&scan, "\",\n \"namespace\": \"") && take_word(&scan, pod)
        && take_word(&scan, "\",") && prepare_messages(messages, host);
}
