"""A long-running trio service: the engine in your own task tree, its events in your log, providers switched by hand."""

import trio

import cortex
from cortex.events import FailedOver, HealthChanged
from cortex.testing import FaultWall, Reply, Status


async def log_events(engine: cortex.Engine) -> None:
    """Ends with the engine."""
    async for event in engine.events():
        match event:
            case HealthChanged(provider=name, status=status, why=why):
                print(f"[health] {name} is {status} {why}".rstrip())
            case FailedOver(provider=name, model=model):
                print(f"[failover] to {name}/{model}")


async def answer(agent: cortex.Agent, question: str) -> None:
    """One customer. A question that fails does not end the service."""
    try:
        response = await agent.start_session().run(question, timeout=10)
        print(f"{question} -> {response.metadata.provider}")
    except cortex.CortexError as error:
        print(f"{question} -> {error}")


async def main() -> None:
    async with FaultWall() as wall:
        providers = {name: {"api_key": "...", "base_url": wall.add(name).base_url} for name in ("openai", "anthropic")}
        async with (
            cortex.Engine(providers, worker_model="gpt-4o", fallback_models=["claude-haiku-4-5"]) as engine,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(log_events, engine)
            agent = engine.create_agent("service")
            await answer(agent, "one")

            wall["openai"].always(Status(401))  # somebody revoked the key
            await answer(agent, "two")  # pays for finding out
            await answer(agent, "three")  # does not
            print("health:", *engine.health().values(), sep="\n  ")

            wall["openai"].always(Reply("I am back."))  # the key works again: say so, or wait for the next recheck
            await engine.recheck("openai")
            await answer(agent, "four")

            await engine.set_enabled("openai", False)  # maintenance
            await answer(agent, "five")
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
