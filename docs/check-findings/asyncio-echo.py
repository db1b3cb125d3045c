"""An echo on CPython's asyncio, as its documentation has it.

    python3 asyncio-echo.py once|streams|protocol-once|protocol|udp PORT

`once` and `protocol-once` are the documentation's "TCP echo server" with streams and with a protocol, but for what they print: each
ends after the first receive. `streams` and `protocol` go on; `udp` is the documentation's "UDP echo server".
"""
import asyncio
import sys


async def once(reader, writer):
    data = await reader.read(100)
    writer.write(data)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def streams(reader, writer):
    while data := await reader.read(100):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


class Protocol(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)
        if ENDS:
            self.transport.close()


class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(data, addr)


async def serve(kind, port):
    loop = asyncio.get_running_loop()
    if kind == "udp":
        await loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", port))
        return await asyncio.Event().wait()
    if kind.startswith("protocol"):
        server = await loop.create_server(Protocol, "127.0.0.1", port)
    else:
        server = await asyncio.start_server({"once": once, "streams": streams}[kind], "127.0.0.1", port)
    async with server:
        await server.serve_forever()


ENDS = sys.argv[1] == "protocol-once"
asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
