/* The yardstick over UDP: a plain recvfrom and sendto loop in C, one thread.
 *
 * Two system calls a datagram, and nothing that a server should do besides: it counts nothing, groups nothing,
 * refuses nobody. An answer that the kernel does not take is forgotten, as UDP allows.
 *
 * Build and run:  cc -O2 -o udp udp.c && ./udp 7007
 * See also: Stevens, UNPv1, 8.4; udp(7); and our event-loop over udp://, which is measured against this.
 */
#include "listen.h"
#include "work.h"

/* Asked for, so that the datagrams of many clients find room; the kernel gives what net.core.rmem_max allows. */
enum { ROOM = 4 << 20 };

static char buffer[BUFFER];

int main(int argc, char **argv)
{
    argc = before_work(argc, argv);
    int port = number(argv[1]), room = ROOM;
    if (argc != 2 || port == 0)
        usage(argv, "PORT [--work WORK]");
    int server = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    setsockopt(server, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    bind_to(server, port);
    for (;;) {
        struct sockaddr_in client;
        socklen_t length = sizeof client;
        ssize_t n = recvfrom(server, buffer, BUFFER, 0, (struct sockaddr *)&client, &length);
        if (n < 0)
            continue;
        do_work();
        sendto(server, buffer, n, 0, (struct sockaddr *)&client, length);
    }
}
