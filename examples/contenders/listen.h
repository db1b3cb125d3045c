/* How every contender begins: its arguments are whole numbers, its socket is on 127.0.0.1. Included first,
 * since it says that this is Linux. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

enum { BUFFER = 65536 }; /* what one receive takes at most, as of our server */

/* A whole number from 1 to 65535, or 0 where the argument is missing or something else. */
static inline int number(const char *argument)
{
    char *end;
    long n = argument == NULL ? 0 : strtol(argument, &end, 10);
    return n < 1 || n > 65535 || *end != '\0' ? 0 : n;
}

/* While descriptors or memory are short the listener stays readable: a pause keeps its server from spinning. */
static inline void pause_for_want(void)
{
    poll(NULL, 0, 100);
}

_Noreturn static inline void usage(char **argv, const char *arguments)
{
    fprintf(stderr, "usage: %s %s\n", argv[0], arguments);
    exit(2);
}

/* Binds a socket to 127.0.0.1. */
static inline void bind_to(int socket, int port)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    if (bind(socket, (struct sockaddr *)&at, sizeof at) < 0) {
        perror("bind");
        exit(2);
    }
}

/* A listener; flags as of socket(2). SO_REUSEADDR, because the last server's connections may still linger. */
static inline int listen_on(int port, int flags)
{
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    bind_to(listener, port);
    if (listen(listener, 4096) < 0) {
        perror("listen");
        exit(2);
    }
    return listener;
}

/* Readable once SIGTERM has come: then a server lets in who waits in the accept queue, answers what has come, and
 * ends. */
static inline int watch_for_term(void)
{
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, NULL);
    return signalfd(-1, &term, SFD_CLOEXEC);
}
