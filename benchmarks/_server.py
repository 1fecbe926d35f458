"""The local server of the benchmarks, a process of its own: ``python _server.py FOLDER DELAY_S`` prints its port.

It is not what is measured, so it does little: the files of a folder are held in memory, and ``/<number>`` gives
the file of that number (modulo their count) with the number in a comment of its JPEG header, so that as many
different files as wanted come from a few pictures.
"""

import asyncio
import sys
from pathlib import Path

STAMP = b"\xff\xfe\x00\x12%016d"  # a JPEG comment, which goes after the two bytes that every JPEG begins with
STAMP_BYTES = 20


class Pictures(asyncio.Protocol):
    def __init__(self, files: list[bytes], delay_s: float) -> None:
        self.files = files
        self.delay_s = delay_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport
        self.head = b""

    def data_received(self, data: bytes) -> None:
        self.head += data
        while b"\r\n\r\n" in self.head:
            request, self.head = self.head.split(b"\r\n\r\n", 1)
            asyncio.get_running_loop().call_later(self.delay_s, self.answer, int(request.split(b" ", 2)[1][1:]))

    def answer(self, number: int) -> None:
        file = self.files[number % len(self.files)]
        head = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % (len(file) + STAMP_BYTES)
        self.transport.writelines([head, file[:2], STAMP % number, file[2:]])


async def main(folder: Path, delay_s: float) -> None:
    files = [file.read_bytes() for file in sorted(folder.iterdir())]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Pictures(files, delay_s), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2])))
