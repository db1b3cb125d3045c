"""A process per connection, by CPython's socketserver: each has an interpreter, and a lock, of its own.

Children are reaped when the next client comes, or within half a second.

Run:       python3 python-processes.py 7007
See also:  socketserver.ForkingTCPServer, and our fork; python-threads.py, which differs in
           the class of the server, and in what a child must do besides.
"""
import os
import signal
import socketserver
import sys

import contender


class Echo(socketserver.BaseRequestHandler):
    def setup(self):
        contender.end_with(PARENT)
        self.server.socket.close()

    def handle(self):
        contender.converse(self.request, ARGUMENTS.work)


class Server(contender.Server, socketserver.ForkingTCPServer):
    max_children = sys.maxsize  # unless told, the 41st client waits until somebody leaves

    def server_close(self):
        for child in self.active_children or ():
            os.kill(child, signal.SIGTERM)
        super().server_close()  # which waits for them


PARENT = os.getpid()
ARGUMENTS = contender.arguments()
signal.signal(signal.SIGTERM, contender.end)  # in the children too
with Server(("127.0.0.1", ARGUMENTS.port), Echo) as server:
    server.serve_forever()
