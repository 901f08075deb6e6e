"""A provider goes down, the answer comes all the same, and the trail says how.

Runs as it stands, without a key: the two providers are loopback ones from `cortex.testing`. With your own keys, leave
the wall and the `base_url`s out.
"""

import asyncio

import cortex
from cortex.testing import FaultWall, Reply, Status


async def main(wall: FaultWall) -> None:
    engine = cortex.Engine(
        providers={
            "openai": {"api_key": "sk-...", "base_url": wall["openai"].base_url},
            "gemini": {"api_key": "AIza...", "base_url": wall["gemini"].base_url},
        },
        orchestrator_model="gpt-4o",
        worker_model="gemini-3-flash-preview",
    )
    session = engine.create_agent("support", system_prompt="You are brief.").start_session()

    wall["gemini"].script(Status(500))  # one bad answer, then all is well again
    response = await session.run("What is the capital of France?")
    print(response.content)
    print("failover:", response.metadata.failover)
    for attempt in response.metadata.attempts:
        print("  ", attempt)

    response = await session.run("And of Italy?")
    print(response.content, "served by", response.metadata.model_used)
    await engine.aclose()


if __name__ == "__main__":
    with FaultWall() as wall:
        wall.add("openai").always(Reply("Paris, says GPT."))
        wall.add("gemini").always(Reply("Rome, says Gemini."))
        asyncio.run(main(wall))
