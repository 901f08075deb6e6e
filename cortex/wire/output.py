"""A structured answer where a vendor, or a model of its, knows no schema for one: a tool that gives the final answer.

The encoder offers it; a call of it is read as text again (`draft`), in pieces where it comes in pieces. So nobody else
sees the tool, and what is validated, repaired, shown and remembered is an answer like any other.
"""

from __future__ import annotations

from typing import Final

import attrs

from cortex.messages import OutputSchema, Request, ToolSpec

PREFIX: Final = "structured_output__"
"""How the tool is told from a user's own."""


def output_name(output: OutputSchema) -> str:
    """The tool's name, as long as every vendor takes one."""
    return (PREFIX + output.name)[:64]


def output_tool(output: OutputSchema) -> ToolSpec:
    """The tool whose arguments are the answer."""
    return ToolSpec(output_name(output), "Gives the final answer.", output.schema)


def by_tool(request: Request) -> Request:
    """The same request without an output schema, and with the tool: forced, or beside the user's tools one of all these
    is. Where the user forces a tool of his own there is no answer to give yet, so none is offered."""
    output, choice = request.output, request.tool_choice
    if output is None:
        return request
    if choice not in (None, "none"):
        return attrs.evolve(request, output=None)
    tool = output_tool(output)
    choice = "required" if request.tools and choice is None else tool.name
    return attrs.evolve(request, output=None, tools=(*request.tools, tool), tool_choice=choice)
