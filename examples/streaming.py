"""Streams: a failure before the first word is hidden, a failure after it is not.

What was shown cannot be taken back, so a stream that dies raises `StreamInterrupted` with the part that was shown. With
`on_interrupt="restart"` the answer begins anew elsewhere, after a chunk that says so.
"""

import asyncio

import cortex
from cortex.testing import Cut, FaultWall, Reply, Reset

STORY = Reply("Once upon a time there was an engine.")


def engine_on(wall: FaultWall, policy: cortex.Policy | None = None) -> cortex.Engine:
    providers = {name: {"api_key": "...", "base_url": wall[name].base_url} for name in ("anthropic", "openai")}
    return cortex.Engine(providers, "claude-opus-4-6", "claude-haiku-4-5", ["gpt-4o"], policy)


async def show(stream: cortex.Stream) -> None:
    async with stream:
        async for chunk in stream:
            if chunk.kind == "restart":
                print(" ... [discard that, it begins anew]")
            print(chunk.content, end="", flush=True)
    print(f"  <- {stream.response.metadata.model_used}")


async def main(wall: FaultWall) -> None:
    wall["anthropic"].script(Reset(), Cut(after=3, reply=STORY), Cut(after=3, reply=STORY))

    async with engine_on(wall) as engine:
        await show(engine.stream("Tell me a story."))  # dead before the first word: nobody notices
        try:
            await show(engine.stream("Tell me a story."))
        except cortex.StreamInterrupted as error:
            print(f"\n{error}\nwhat was shown: {error.partial!r}")

    async with engine_on(wall, cortex.Policy(on_interrupt="restart")) as engine:
        await show(engine.stream("Tell me a story."))


if __name__ == "__main__":
    with FaultWall() as wall:
        for name in ("anthropic", "openai"):
            wall.add(name).always(STORY)
        asyncio.run(main(wall))
