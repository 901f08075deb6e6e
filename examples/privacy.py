"""Zones: what runs on your own machines stays there, also when they fail.

The worker's model lives on-prem, the orchestrator's in the cloud. When the local server is down, no other zone is asked
in its place: the call fails and says why. Naming a model in `fallback_models` is consent.
"""

import trio

import cortex
from cortex.testing import FaultWall, Reply


def engine_on(wall: FaultWall, fallback_models: list[str] | None) -> cortex.Engine:
    return cortex.Engine(
        providers={
            "openai": {"api_key": "sk-...", "base_url": wall["openai"].base_url},
            "local": {"base_url": wall["local"].base_url},
        },
        orchestrator_model="gpt-4o",  # the cloud plans
        worker_model="llama3.1:8b",  # private text stays here
        fallback_models=fallback_models,
    )


async def main() -> None:
    async with FaultWall() as wall:
        wall.add("openai").always(Reply("from the cloud"))
        wall.add("local", dialect="openai").always(Reply("from this machine"))

        async with engine_on(wall, fallback_models=None) as engine:
            print(engine.explain(), "\n")
            session = engine.create_agent("clerk").start_session()
            response = await session.run("Summarise the file of patient 17, step by step.")
            print(response.content, "- System", response.metadata.system)  # triage never leaves the zone by itself

            wall["local"].down()
            try:
                await session.run("And that of patient 18.")
            except cortex.ProviderError as error:
                print(f"{type(error).__name__}: {error}")
            print("requests the cloud saw:", len(wall["openai"].requests), "\n")

        async with engine_on(wall, fallback_models=["gpt-4o"]) as engine:
            response = await engine.create_agent("clerk").start_session().run("What is the weather like?")
            print(response.content, "- with consent")


if __name__ == "__main__":
    trio.run(main)
