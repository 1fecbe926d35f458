"""The count of bytes that files may hold: who waits, and who goes on."""

import asyncio

import pytest

from imgpipe_dagster.fetch.budget import ByteBudget, Share


@pytest.fixture
def run():
    """Runs a coroutine function that gets `begin(coroutine)`, which starts it and says whether it has to wait."""

    def run(scenario):
        async def main():
            started = []

            async def begin(coroutine):
                started.append(asyncio.ensure_future(coroutine))
                await settle()
                return started[-1]

            async with asyncio.timeout(5):
                await scenario(begin)

        asyncio.run(main())

    return run


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


def test_files_wait_while_whole_ones_are_not_taken_and_go_on_afterwards(run):
    async def scenario(begin):
        budget, whole, next_one = ByteBudget(100), Share(), Share()
        await budget.grow(whole, 80)
        budget.finish(whole)
        waiting = await begin(budget.grow(next_one, 30))
        assert not waiting.done()
        budget.take(80)
        await waiting
        assert next_one.held == 30

    run(scenario)


def test_one_file_goes_beyond_the_limit_and_only_one(run):
    async def scenario(begin):
        budget, first, second = ByteBudget(100), Share(), Share()
        await budget.grow(first, 60)
        await budget.grow(second, 40)
        await budget.grow(first, 60)
        waiting = await begin(budget.grow(second, 1))
        assert not waiting.done()
        await budget.grow(first, 500)
        budget.finish(first)
        await settle()
        assert not waiting.done(), "a whole file waits to be taken, so somebody will come"
        budget.take(620)
        await waiting

    run(scenario)


def test_a_file_that_is_given_up_makes_room(run):
    async def scenario(begin):
        budget, failing, next_one = ByteBudget(100), Share(), Share()
        await budget.grow(failing, 300)
        waiting = await begin(budget.grow(next_one, 300))
        assert not waiting.done()
        budget.drop(failing)
        await waiting
        assert (failing.held, next_one.held) == (0, 300)

    run(scenario)


def test_what_was_reserved_and_not_needed_is_there_for_others(run):
    async def scenario(begin):
        budget, reserved, next_one = ByteBudget(100), Share(), Share()
        await budget.grow(reserved, 90)
        budget.shrink(reserved, 20)
        budget.finish(reserved)
        assert (await begin(budget.grow(next_one, 80))).done()
        assert not (await begin(budget.grow(Share(), 1))).done()

    run(scenario)
