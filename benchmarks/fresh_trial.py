"""Everything between a trial's request and its first step; also as a process of its own.

    python -m benchmarks.fresh_trial REQUEST.json

prints when it was ready, on the clock that all processes share, and its CPU seconds so far.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from search_spaces.checkpoint import iter_parameters
from search_spaces.contracts import TrialRequest
from workers.batches import make_batch
from workers.engine import Engines
from workers.finetune import global_batches
from workers.input_mask import input_mask
from workers.proof import prove_rewound
from workers.tokens import token_splits
from workers.trial import shard_of


def prepare(engines: Engines, request: TrialRequest) -> int:
    """Do what ``workers.trial.run_trial`` does before its first step, first batch included.

    Returns:
        Number of tensors that were proved to start from theta_0 under the mask.
    """
    engine, spec, folder = engines.engine(request), request.spec, Path(request.model.folder)
    cache = Path(request.cache_folder)
    train = token_splits(spec.model, folder, spec.task, request.task, cache)["train"]
    mask = input_mask(request)
    engine.rewind(spec, mask, None, train.words(engine.num_words))
    num_proved = prove_rewound(engine.masters(engine.backbone), iter_parameters(folder), mask)
    engine.classifier.train()
    shard = shard_of(request)
    part = next(shard.parts(next(global_batches(spec, train)), spec.recipe.batch_size))
    make_batch(train, part, spec.task.problem, shard.layout)
    return num_proved


def main() -> None:
    """Be the process of one trial."""
    from benchmarks.workload import single_rank

    request = TrialRequest.model_validate_json(Path(sys.argv[1]).read_text())
    with single_rank():
        num_proved = prepare(Engines(), request)
        ready = {"at_s": time.perf_counter(), "cpu_s": time.process_time()}
        print(json.dumps({**ready, "num_proved": num_proved}), flush=True)


if __name__ == "__main__":
    main()
