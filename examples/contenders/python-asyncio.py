"""A task per connection on one loop, by CPython's asyncio: written as threads are, and still one thread. The work
runs inside the loop, on purpose.

The stream receives no more while it holds 128 KiB, and drain() waits while 64 KiB are not sent. While descriptors are
short, asyncio itself listens again after a second.

Run:       python3 python-asyncio.py 7007
See also:  asyncio.start_server, and our async.
"""
import asyncio
import contextlib

import contender


async def converse(reader, writer):
    with contextlib.suppress(OSError):  # its misfortune is its own
        while received := await reader.read(contender.BUFFER):
            ARGUMENTS.work()
            writer.write(received)
            await writer.drain()
    writer.close()  # when all is sent


async def serve():
    server = await asyncio.start_server(converse, "127.0.0.1", ARGUMENTS.port, backlog=contender.BACKLOG)
    await server.serve_forever()


ARGUMENTS = contender.arguments()
asyncio.run(serve())
