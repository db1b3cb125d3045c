/* A thread per connection: the main thread accepts, each client is served by a thread of its own.
 *
 * Build and run:  cc -O2 -pthread -o thread thread.c && ./thread 7007
 * See also: Stevens, UNPv1, 26.4; TLPI 29; and our thread, which is measured against this.
 */
#include "listen.h"
#include "blocking.h"
#include <pthread.h>
#include <stdint.h>
#include <string.h>

static void *serve(void *argument)
{
    int client = (intptr_t)argument;
    converse(client);
    close(client);
    return NULL;
}

int main(int argc, char **argv)
{
    argc = before_work(argc, argv);
    int port = number(argv[1]);
    if (argc != 2 || port == 0)
        usage(argv, "PORT [--work WORK]");
    listener = listen_on(port, 0);
    on(SIGTERM, drain, 0);
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    pthread_attr_setsigmask_np(&detached, &term); /* it has to interrupt accept(2) */
    int client, highest = 0;
    while ((client = let_in()) >= 0) {
        pthread_t thread;
        highest = client > highest ? client : highest;
        int error = pthread_create(&thread, &detached, serve, (void *)(intptr_t)client);
        if (error != 0) {
            fprintf(stderr, "pthread_create: %s\n", strerror(error));
            close(client);
        }
    }
    close(listener);
    for (int fd = listener + 1; fd <= highest; fd++)
        shutdown(fd, SHUT_RD);
    pthread_exit(NULL); /* the last thread ends the process */
}
