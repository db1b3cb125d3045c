/* What the blocking contenders share, so that they differ in who holds the conversation and nothing else. */
#include "work.h"
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t listener, latest = -1, draining; /* the latest client */

/* For SIGTERM, without SA_RESTART: who waits in the accept queue is still let in, but accept(2) blocks no more. A flag
 * alone would be missed by a server that is just about to block. What has come to the client is still read, and then
 * its end. */
static inline void drain(int signal)
{
    (void)signal;
    draining = 1;
    fcntl(listener, F_SETFL, O_NONBLOCK);
    shutdown(latest, SHUT_RD);
}

static inline void on(int signal, void (*handler)(int), int flags)
{
    struct sigaction action = { .sa_handler = handler, .sa_flags = flags };
    sigaction(signal, &action, NULL);
}

/* The next client, or -1 when SIGTERM has come. A client that has left costs nothing. */
static inline int let_in(void)
{
    int client, one = 1;
    while ((client = latest = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) < 0) {
        if (draining && (errno == EAGAIN || errno == EBADF))
            return -1;
        if (errno != EINTR && errno != ECONNABORTED)
            pause_for_want();
    }
    if (draining)
        shutdown(client, SHUT_RD);
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return client;
}

/* Returns 0 when all was sent: a short write is followed by another. */
static inline int send_all(int client, const char *bytes, size_t owed)
{
    while (owed > 0) {
        ssize_t n = send(client, bytes, owed, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            return -1;
        if (n > 0) {
            bytes += n;
            owed -= n;
        }
    }
    return 0;
}

/* Echoes until the client's FIN, by when all is sent, or until it is lost. */
static inline void converse(int client)
{
    char buffer[BUFFER];
    for (;;) {
        ssize_t n = recv(client, buffer, BUFFER, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        do_work();
        if (send_all(client, buffer, n) < 0)
            return;
    }
}

/* fork(2), but the child ends with its parent, which may have ended before it could ask for that. */
static inline pid_t fork_tied(void)
{
    pid_t parent = getpid(), child = fork();
    if (child == 0 && (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent))
        _exit(1);
    if (child < 0)
        perror("fork");
    return child;
}

/* Passes SIGTERM on to the children, and waits for them. Meanwhile nobody else may reap, so that the list is whole. */
static inline void end_children(void)
{
    FILE *children = fopen("/proc/thread-self/children", "r");
    for (int child; children != NULL && fscanf(children, "%d", &child) == 1;)
        kill(child, SIGTERM);
    while (wait(NULL) > 0 || errno == EINTR)
        ;
}
