"""What tokens cost, in US dollars, by the price lists of `genai-prices` (the extra `cost`). Never a guess: None without
that package, for an address or a model it does not know, and where the vendor did not count."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from cortex.messages import Usage

MAX_UNKNOWN = 1000

Prices = Callable[[str, Iterable[str], Usage], float | None]


@lru_cache(maxsize=1)
def lists() -> Prices | None:
    """The price lists, or None where they are not installed. Loading them takes a tenth of a second, once."""
    if find_spec("genai_prices") is None:
        return None
    import genai_prices
    from genai_prices import data_snapshot

    data_snapshot.get_snapshot()  # read now: the first answer may come when no file can be opened
    unknown: dict[tuple[str, str], object] = {}
    """Who is in no list, and which list that was: a gateway, a server of one's own. Looking once more takes as long."""

    def price(base_url: str, names: Iterable[str], usage: Usage) -> float | None:
        newest = data_snapshot.get_snapshot()
        for name in names:
            if unknown.get((base_url, name)) is newest:
                continue
            try:
                counted = _counted(genai_prices.Usage, usage)
                return float(genai_prices.calc_price(counted, name, provider_api_url=base_url).total_price)
            except LookupError:
                if len(unknown) >= MAX_UNKNOWN:
                    unknown.clear()
                unknown[base_url, name] = newest
            except ValueError:  # counts that contradict each other
                continue
        return None

    return price


def _counted(make: Callable[..., Any], usage: Usage) -> Any:
    return make(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_written_tokens,
    )


def cost_of(base_url: str, names: Iterable[str], usage: Usage) -> float | None:
    """The price of `usage` at the server of `base_url`, for the first of the model's `names` that its list knows."""
    price = lists()
    if price is None or usage.input_tokens is None or usage.output_tokens is None:
        return None
    return price(base_url, names, usage)
