/* A process per connection: the parent accepts and forks, the child serves and exits, the parent reaps.
 *
 * The children are waited for, not left to the kernel (SA_NOCLDWAIT), which would forget their CPU time.
 *
 * Build and run:  cc -O2 -o fork fork.c && ./fork 7007
 * See also: Stevens, UNPv1, 5.12; TLPI 60.3; and our fork, which is measured against this.
 */
#include "listen.h"
#include "blocking.h"
#include <sys/wait.h>

/* One signal may stand for several children. */
static void reap(int signal)
{
    (void)signal;
    int kept = errno;
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
    errno = kept;
}

int main(int argc, char **argv)
{
    argc = before_work(argc, argv);
    int port = number(argv[1]);
    if (argc != 2 || port == 0)
        usage(argv, "PORT [--work WORK]");
    int listener = listen_on(port, 0);
    struct sigaction on_end = { .sa_handler = reap, .sa_flags = SA_RESTART | SA_NOCLDSTOP };
    sigaction(SIGCHLD, &on_end, NULL);
    for (;;) {
        int client = let_in(listener);
        if (fork_tied() == 0) {
            close(listener);
            converse(client);
            _exit(0);
        }
        close(client);
    }
}
