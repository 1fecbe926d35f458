"""The API's log of requests: what is being written when the server ends is neither lost nor written twice."""

import asyncio
from collections.abc import Sequence

from imgpipe_dagster.api.request_log import open_request_log
from imgpipe_dagster.catalogue.request_log import NewRequest


def a_request(name: str) -> NewRequest:
    return NewRequest(name, None, None, None, {}, None, None)


def test_the_end_waits_for_what_is_being_written_and_writes_the_rest():
    written: list[str] = []

    async def main():
        writing = asyncio.Event()

        async def note(requests: Sequence[NewRequest]) -> None:
            writing.set()
            await asyncio.sleep(0.3)
            written.extend(request.image_id for request in requests)

        async with open_request_log(note) as log:
            log.add(a_request("first"))
            await asyncio.wait_for(writing.wait(), 5)
            log.add(a_request("second"))

    asyncio.run(main())
    assert written == ["first", "second"]
