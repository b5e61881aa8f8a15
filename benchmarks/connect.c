/* connect: a program that only connects, sends PING and waits for the answer: the baseline
 * of native.c. The socket's path is in BONDCNI_SOCKET.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(void)
{
    static const unsigned char ping[] = {1, 9, 0, 0, 0, 0, 0, 0};
    unsigned char answer[64];
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    const char *path = getenv("BONDCNI_SOCKET");
    int sock = socket(AF_UNIX, SOCK_STREAM, 0);
    if (!path || sock < 0)
        return 2;
    strncpy(at.sun_path, path, sizeof at.sun_path - 1);
    if (connect(sock, (struct sockaddr *)&at, sizeof at))
        return 3;
    if (write(sock, ping, sizeof ping) != sizeof ping)
        return 4;
    return read(sock, answer, sizeof answer) > 0 ? 0 : 5;
}
