"""HTTP/1.1 for a service that lives long: an `httpx.AsyncBaseTransport` on trio and h11.

It can stand under any `httpx.AsyncClient` that runs in trio. What httpx's own pool cannot promise there, it does: a
call may be cancelled at any moment and leaves nothing behind, and it costs the same however many are under way.
Nothing is sent that was not asked for: no redirects, no cookies, no proxies of the environment, no second attempt.

    client.py       `Transport`: one request, from the pool to the reply and back
    pool.py         the connections to one origin: the idle ones on a stack, a bound, and who waits
    request.py      what we say: a request's head and body, as bytes
    connection.py   one connection: requests out, replies in, which h11 reads
    dial.py         names, addresses, TCP and TLS
    proxy.py        the way through a proxy
    tls.py          whom to trust
    threads.py      what can only wait in a thread
    progress.py     how far a request has come
    causes.py       what went wrong, in words
"""

from .causes import causes, words
from .client import KEEPALIVE_SECONDS, ReplyStream, Transport
from .dial import Link
from .progress import Progress
from .proxy import Proxy
from .tls import shared_context

__all__ = [
    "KEEPALIVE_SECONDS",
    "Link",
    "Progress",
    "Proxy",
    "ReplyStream",
    "Transport",
    "causes",
    "shared_context",
    "words",
]
