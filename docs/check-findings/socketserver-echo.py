"""An echo on CPython's socketserver, as its documentation has it, for each of its servers.

    python3 socketserver-echo.py plain|threading|forking|udp PORT
    python3 socketserver-echo.py once PORT

`once` is the documentation's first example but for its upper(): one receive, and an end. The others have the loop that
everybody puts around it; `udp` is the documentation's own.
"""
import socketserver
import sys


class Once(socketserver.BaseRequestHandler):
    def handle(self):
        self.data = self.request.recv(1024).strip()
        self.request.sendall(self.data)


class Loop(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(1024):
            self.request.sendall(data)


class Datagram(socketserver.BaseRequestHandler):
    def handle(self):
        data, client = self.request
        client.sendto(data, self.client_address)


SERVERS = {
    "once": (socketserver.TCPServer, Once),
    "plain": (socketserver.TCPServer, Loop),
    "threading": (socketserver.ThreadingTCPServer, Loop),
    "forking": (socketserver.ForkingTCPServer, Loop),
    "udp": (socketserver.UDPServer, Datagram),
}

server, handler = SERVERS[sys.argv[1]]
with server(("localhost", int(sys.argv[2])), handler) as it:
    it.serve_forever()
