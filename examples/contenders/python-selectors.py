"""One loop on CPython's selectors (epoll on Linux), one thread: the serial contender, for the work runs inside the
loop, on purpose.

Level-triggered: a receive and a send a turn. While a client is owed bytes it is not received from.

Run:       python3 python-selectors.py 7007
See also:  selectors, epoll(7), and our event-loop.
"""
import selectors
import socket
import time

import contender


class Client:
    """A conversation that never blocks: what it owes, and what it waits for next."""

    def __init__(self, client):
        self.socket, self.owed = client, b""
        SELECTOR.register(client, selectors.EVENT_READ, self.turn)

    def turn(self):
        try:
            if not self.owed:
                self.owed = memoryview(self.socket.recv(contender.BUFFER))
                if not self.owed:
                    return self.end()
                ARGUMENTS.work()
            self.owed = self.owed[self.socket.send(self.owed) :]
        except BlockingIOError:
            pass
        except OSError:
            return self.end()
        self.wait_for(selectors.EVENT_WRITE if self.owed else selectors.EVENT_READ)

    def wait_for(self, event):
        key = SELECTOR.get_key(self.socket)
        if key.events != event:
            SELECTOR.modify(self.socket, event, self.turn)

    def end(self):
        SELECTOR.unregister(self.socket)
        self.socket.close()


def let_in():
    """While descriptors or memory are short the listener stays readable, so it is left out for a while."""
    try:
        client, _ = LISTENER.accept()
    except (BlockingIOError, ConnectionAbortedError):
        return
    except OSError:
        global listens_again
        SELECTOR.unregister(LISTENER)
        listens_again = time.monotonic() + contender.PAUSE
        return
    client.setblocking(False)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    Client(client)


ARGUMENTS = contender.arguments()
SELECTOR = selectors.DefaultSelector()
LISTENER = contender.listen_on(ARGUMENTS.port)
LISTENER.setblocking(False)
SELECTOR.register(LISTENER, selectors.EVENT_READ, let_in)
listens_again = None  # when, while it does not listen
while True:
    for key, _ in SELECTOR.select(listens_again and listens_again - time.monotonic()):
        key.data()
    if listens_again and time.monotonic() >= listens_again:
        SELECTOR.register(LISTENER, selectors.EVENT_READ, let_in)
        listens_again = None
