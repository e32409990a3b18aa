"""`dao-flows audit`: where a result comes from, and whether it is still what it was."""

from __future__ import annotations

import typer

from . import graph, replay, verify

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Where a result comes from, whether it is unchanged, and whether it comes out again.",
)
app.command("graph", epilog=graph.GRAPH_EXAMPLES)(graph.graph)
app.command("replay", epilog=replay.REPLAY_EXAMPLES)(replay.replay)
app.command("verify", epilog=verify.VERIFY_EXAMPLES)(verify.verify)
app.command("sign", epilog=verify.SIGN_EXAMPLES)(verify.sign)
app.command("keygen")(verify.keygen)
