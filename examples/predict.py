"""From a formula to ranked structures, in one call and as a jobflow flow.

Run it with `python examples/predict.py [FORMULA]`; it takes a minute or two on a laptop.
"""

import sys
import tempfile

from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore

from dao_flows import predict
from dao_flows.makers.generate import GenerateMaker
from dao_flows.makers.predict import PredictFlowMaker
from dao_flows.makers.schemas.prediction import ScreeningDoc

QUICK = {"steps": 20}  # a quick look; leave it out for the best structures


def in_one_call(formula: str) -> None:
    """Generate, rank and store; the results are there for `dao-flows list`, too."""
    result = predict(formula, n=6, z=1, seed=0, **QUICK)
    print(f"{formula}: stored in {result.store} as run {result.run_id}")
    for candidate in result.candidates():
        group = candidate.symmetry_loose.symbol if candidate.symmetry_loose else "–"
        energy = f"{candidate.energy.value:7.3f} {candidate.energy.unit}"
        print(f"  {candidate.rank}  {group:10} {energy}  {candidate.candidate_id}")


def as_a_flow(formula: str) -> None:
    """The same as a flow, which any jobflow manager can run; here on a store of its own, in memory."""
    flow = PredictFlowMaker(generate=GenerateMaker(candidates=6, z=1, **QUICK)).make(formula)
    store = JobStore(MemoryStore())
    with tempfile.TemporaryDirectory() as scratch:
        run_locally(flow, store=store, root_dir=scratch, create_folders=True, ensure_success=True)
    document = ScreeningDoc.model_validate(store.get_output(flow.output.uuid))
    print(f"{formula}: {len(document.accepted)} structures, {len(document.rejected)} rejected")


if __name__ == "__main__":
    formula = sys.argv[1] if len(sys.argv) > 1 else "Cr3Os"
    in_one_call(formula)
    as_a_flow(formula)
