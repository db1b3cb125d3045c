/* A pool of processes, forked in advance, each serving one client until it leaves: all of them block in
 * accept(2), and the kernel hands a client to one. A worker that dies is replaced.
 *
 * Build and run:  cc -O2 -o prefork prefork.c && ./prefork 7007 64
 * See also: Stevens, UNPv1, 30.6; and our prefork, which is measured against this.
 */
#include "listen.h"
#include "blocking.h"
#include <sys/wait.h>

static void start_worker(int listener)
{
    if (fork_tied() != 0)
        return;
    for (;;) {
        int client = let_in(listener);
        converse(client);
        close(client);
    }
}

int main(int argc, char **argv)
{
    argc = before_work(argc, argv);
    int port = number(argv[1]), workers = argc == 3 ? number(argv[2]) : 64;
    if (argc > 3 || port == 0 || workers == 0)
        usage(argv, "PORT [WORKERS] [--work WORK]");
    int listener = listen_on(port, 0);
    for (int n = 0; n < workers; n++)
        start_worker(listener);
    while (wait(NULL) > 0)
        start_worker(listener);
    perror("no worker is left");
    return 1;
}
