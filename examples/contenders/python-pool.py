"""A pool of processes by CPython's multiprocessing, started in advance, each serving one client until it leaves: all
of them block in accept(2) on one socket, and the kernel hands a client to one. A worker that dies is replaced.

Run:       python3 python-pool.py 7007 --workers 64
See also:  multiprocessing.Process, Stevens, UNPv1, 30.6; and our prefork.
"""
import multiprocessing
import os
import signal
import time
from multiprocessing.connection import wait

import contender

FORK = multiprocessing.get_context("fork")  # so that a worker has the listener


def serve():
    contender.end_with(PARENT)
    while client := contender.let_in(LISTENER):
        with client:
            contender.converse(client, ARGUMENTS.work)


def start_worker():
    worker = FORK.Process(target=serve)
    worker.start()
    return worker


PARENT = os.getpid()
ARGUMENTS = contender.arguments(workers=64)
LISTENER = contender.listen_on(ARGUMENTS.port)
signal.signal(signal.SIGTERM, contender.end)  # in the workers too
workers = []
while not contender.ending:
    workers = [worker for worker in workers if worker.is_alive()]
    try:
        while len(workers) < ARGUMENTS.workers:
            workers.append(start_worker())
    except OSError:  # a process was refused; those that are there go on serving
        time.sleep(contender.PAUSE)
        continue
    wait([worker.sentinel for worker in workers], contender.TURN)
LISTENER.setblocking(False)  # for the workers too, which end once nobody is in the queue
for worker in workers:
    worker.terminate()  # by SIGTERM; multiprocessing waits for them
