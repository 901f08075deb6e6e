"""Plain threads, no event loop: `run_sync` from as many as you like. The engines of a process share one thread."""

from concurrent.futures import ThreadPoolExecutor

import cortex
from cortex.testing import FaultWall, Reply


def main(wall: FaultWall) -> None:
    providers = {name: {"api_key": "...", "base_url": wall[name].base_url} for name in ("gemini", "openai")}
    with cortex.Engine(providers, "gpt-4o", "gemini-2.5-flash") as engine:
        agent = engine.create_agent("batch")

        def translate(word: str) -> str:
            return agent.start_session().run_sync(f"Translate {word}").content

        wall["gemini"].down()
        with ThreadPoolExecutor(8) as pool:
            for answer in pool.map(translate, ("un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit")):
                print(answer)

        for chunk in agent.start_session().run_stream_sync("And as a stream?"):
            print(chunk.content, end="")
        print()
        print(engine.health()["gemini"])


if __name__ == "__main__":
    with FaultWall() as wall:
        wall.add("gemini")
        wall.add("openai").always(Reply(lambda seen: f"answer to {seen.text!r}"))
        main(wall)
