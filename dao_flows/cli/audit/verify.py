"""`dao-flows audit verify`, `sign` and `keygen`: is the store what it was, and who vouches for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dao_flows.errors import InputError

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

    from dao_flows.audit.integrity.findings import Report
    from dao_flows.audit.integrity.scope import Scope
    from dao_flows.audit.integrity.signing import Signature
    from dao_flows.audit.integrity.verify import Tell

VERIFY_EXAMPLES = """[bold]Examples[/bold]

dao-flows audit verify --all

dao-flows audit verify dao-6d5d49f3a1c2 ver-be2f5be4b9f7

dao-flows audit verify --all --public-key lab.key.pub --json
"""
SIGN_EXAMPLES = """[bold]Examples[/bold]

dao-flows audit keygen lab.key

dao-flows audit sign ver-be2f5be4b9f7 --key lab.key
"""
IDS_HELP = "What to verify, with its whole graph: any id that `audit graph` takes."
NOT_WELL = 1
SHOWN = 100  # findings of each kind on the terminal


def verify(
    ids: Annotated[list[str] | None, typer.Argument(help=IDS_HELP, show_default=False)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Verify all that is in the store.")] = False,
    public_key: Annotated[Path | None, typer.Option(help="Require a signature that holds with this key.")] = None,
    signature: Annotated[Path | None, typer.Option(help="Check the signature in this file, too.")] = None,
    files: Annotated[
        bool, typer.Option("--files", help="Hash what codes left in the folders of their calculations, too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")] = False,
) -> None:
    """Hash documents, data and checkpoints again, and say what is missing, altered, orphaned or unverifiable.

    The exit code is 1 if something is missing or altered, or a signature does not hold.
    """
    from dao_flows.audit.integrity import signing
    from dao_flows.audit.integrity.verify import verify as run
    from dao_flows.settings import settings
    from dao_flows.store.stores import job_store

    if everything == bool(ids):
        raise InputError("give ids to verify, or --all")
    key = signing.public_key(public_key) if public_key is not None else None
    given = [(str(signature), signing.read(signature))] if signature is not None else []
    jobs = job_store(settings())
    scope = _scope(jobs, ids or []) if ids else None
    signatures = [*_signatures(jobs, scope), *given]
    if key is not None:
        signatures = [(name, each) for name, each in signatures if signing.made_by(each, key)]
        if not signatures:
            raise InputError(f"nothing that would be verified carries a signature by {public_key}")
    with _progress() as tell:
        report = run(jobs, scope, tell, folders=files)
    told = [(name, each, signing.check(jobs, each, key)) for name, each in signatures]
    bare = signing.unsigned(report.checked.get("jobs", 0), [each for _, each, fault in told if fault is None], scope)
    if as_json:
        signed = [{"id": name, "at": s.statement.at, "who": s.statement.who, "fault": fault} for name, s, fault in told]
        print(_json(report, signed, bare))
    else:
        _show(report, told, bare)
    if not report.sound or any(fault for _, _, fault in told):
        raise typer.Exit(NOT_WELL)


def sign(
    reference: Annotated[str, typer.Argument(metavar="RUN_OR_ID", help="A run, or any id that `audit graph` takes.")],
    key: Annotated[Path, typer.Option(help="Private key, as `audit keygen` makes it.")],
    out: Annotated[Path | None, typer.Option(help="Write the signature to this file, too.")] = None,
) -> None:
    """Sign the root hash of something and all that it was made from, for `audit verify --public-key` to check."""
    from dao_flows.audit.integrity import signing
    from dao_flows.audit.integrity.verify import verify as run
    from dao_flows.makers.machine.whole_files import write_whole
    from dao_flows.settings import settings
    from dao_flows.store.stores import job_store

    private = signing.private_key(key)
    jobs = job_store(settings())
    scope = _scope(jobs, [reference], history=True)
    with _progress() as tell:
        report = run(jobs, scope, tell)
    if not report.sound:
        _show(report, [], 0)
        raise InputError(f"{reference} is not signed: it is not what it was when it was written")
    signature = signing.sign(jobs, scope, private)
    if out is not None:
        write_whole(out, signature.model_dump_json(indent=1) + "\n")
    name = signing.store(jobs, signature)
    print(f"signed: {name}, root hash {signature.statement.root_hash} over {signature.statement.nodes} documents")


def keygen(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where the private key goes; beside it FILE.pub.")],
) -> None:
    """Make a key to sign with (Ed25519). Only you can read it: keep it, and give away FILE.pub."""
    from dao_flows.audit.integrity.signing import make_key

    public = make_key(path)
    print(f"private key: {path}; public key, to give away: {public}")


def _scope(jobs: JobStore, ids: list[str], history: bool = False) -> Scope:
    """The graph of these ids; history: only what they were made from."""
    from dao_flows.audit.integrity.scope import scope_of

    return scope_of(jobs, ids, history)


def _signatures(jobs: JobStore, scope: Scope | None) -> Iterator[tuple[str, Signature]]:
    """Signatures in the store over anything that is verified."""
    from dao_flows.audit.integrity import signing

    for each in signing.stored(jobs):
        if scope is None or signing.touches(each, scope):
            yield each.id, each


def _json(report: Report, signatures: list[dict[str, str | None]], unsigned: int) -> str:
    import json

    content = report.model_dump() | {"sound": report.sound, "counts": report.counts, "signatures": signatures}
    content["unsigned"] = unsigned
    return json.dumps(content, indent=1, ensure_ascii=False)


def _show(report: Report, signatures: list[tuple[str, Signature, str | None]], unsigned: int) -> None:
    from dao_flows.cli.shared.tables import stdout

    console = stdout()
    shown: dict[str, int] = {}
    for finding in report.findings:
        shown[finding.problem] = shown.get(finding.problem, 0) + 1
        if shown[finding.problem] <= SHOWN:
            console.print(finding.line(), markup=False, highlight=False, soft_wrap=True)
    for problem, count in shown.items():
        if count > SHOWN:
            console.print(f"{problem}: {count - SHOWN} more; --json shows all", markup=False, soft_wrap=True)
    for name, signature, fault in signatures:
        by = f" by {signature.statement.who}" if signature.statement.who else ""
        text = "holds" if fault is None else f"does not hold: {fault}"
        console.print(f"signature {name}{by} of {signature.statement.at}: {text}", markup=False, soft_wrap=True)
    if unsigned:
        text = (
            f"unsigned: {unsigned} of {report.checked['jobs']} documents of jobs: who changes one with all hashes and "
            "records of it is not noticed; `dao-flows audit sign` signs them"
        )
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    if report.before_chaining:
        text = (
            f"{report.before_chaining} records of runs are from before chaining: one that was removed may not be missed"
        )
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    checked = ", ".join(f"{count} {name}" for name, count in report.checked.items())
    counts = ", ".join(f"{count} {problem}" for problem, count in report.counts.items()) or "all as it was written"
    console.print(f"{checked} in {report.seconds:.1f} s: {counts}", markup=False, soft_wrap=True)


@contextmanager
def _progress() -> Iterator[Tell]:
    from dao_flows.cli.shared.progress import stage_progress

    with stage_progress() as listen:
        yield listen
