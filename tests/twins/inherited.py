"""A process for each client, whose parent closes the client's socket only when the process has ended.

Every process that is forked meanwhile inherits that socket, and its client gets no end until all of them are gone.
"""

import os
import select
import signal
import socket
import sys
import time


def echo(client):
    while data := client.recv(1 << 16):
        client.sendall(data)


def reap(clients):
    while clients:
        pid, _ = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            break
        clients.pop(pid).close()


def main():
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1024)
    listener.setblocking(False)
    # A child's end writes into this pipe, and so ends the wait.
    ended, end = os.pipe()
    os.set_blocking(ended, False)
    os.set_blocking(end, False)
    signal.set_wakeup_fd(end, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    clients = {}
    while True:
        select.select([listener, ended], [], [])
        try:
            while os.read(ended, 1024):
                pass
        except BlockingIOError:
            pass
        reap(clients)
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            continue
        except OSError:
            time.sleep(0.01)  # no descriptor is left
            continue
        client.setblocking(True)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            pid = os.fork()
        except OSError:
            client.close()
            continue
        if pid == 0:
            listener.close()
            signal.set_wakeup_fd(-1)
            try:
                echo(client)
            except OSError:
                pass
            os._exit(0)
        clients[pid] = client


main()
