"""`dao-flows audit`: where a result comes from, and whether it is still what it was."""

from __future__ import annotations

import typer

from . import audit_graph, audit_replay, audit_verify

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Where a result comes from, whether it is unchanged, and whether it comes out again.",
)
app.command("graph", epilog=audit_graph.GRAPH_EXAMPLES)(audit_graph.graph)
app.command("replay", epilog=audit_replay.REPLAY_EXAMPLES)(audit_replay.replay)
app.command("verify", epilog=audit_verify.VERIFY_EXAMPLES)(audit_verify.verify)
app.command("sign", epilog=audit_verify.SIGN_EXAMPLES)(audit_verify.sign)
app.command("keygen")(audit_verify.keygen)
