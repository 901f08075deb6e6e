"""Tools: plain functions with type hints. One that ran is never run again because a provider failed.

The first provider asks for the tool and dies before it can use the result; the second continues with that result.
"""

import asyncio

import cortex
from cortex.testing import FaultWall, Reply, Status, ToolCalls

ran: list[int] = []


async def order_status(order: int) -> dict[str, str]:
    """Where an order is.

    Args:
        order: the number on the receipt.
    """
    ran.append(order)
    return {"order": str(order), "status": "shipped"}


@cortex.tool(name="opening_hours", description="When the shop is open.", timeout=5)
def hours(day: str) -> str:
    return f"On {day} from 9 to 18."


async def main(wall: FaultWall) -> None:
    providers = {name: {"api_key": "...", "base_url": wall[name].base_url} for name in ("openai", "gemini")}
    async with cortex.Engine(providers, "gemini-2.5-pro", "gpt-4o") as engine:
        agent = engine.create_agent("support", "You help customers.", tools=[order_status, hours])
        session = agent.start_session(user_id="customer_42")

        wall["openai"].script(ToolCalls(("order_status", {"order": "1234"})), Status(500), Status(500))
        response = await session.run("Where is my order #1234?")
        print(response.content)
        print("tools called:", response.metadata.tools_called, "- runs:", len(ran))
        for result in response.tool_results:
            print("  ", result.name, "->", result.content)
        for attempt in response.metadata.attempts:
            print("  ", attempt)


if __name__ == "__main__":
    with FaultWall() as wall:
        wall.add("openai").always(Reply("It was shipped."))
        wall.add("gemini").always(Reply("Your order was shipped, says Gemini."))
        asyncio.run(main(wall))
