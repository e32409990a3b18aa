"""`dao-flows audit`: where a result comes from, and whether it is still what it was."""

from __future__ import annotations

import typer

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Where a result comes from, whether it is unchanged, and whether it comes out again.",
)
# a command of a module of its own joins here: app.command("verify", epilog=audit_verify.EXAMPLES)(audit_verify.verify)
