"""One rank of a launched run; started by DeepSpeed's launcher, see tasks/pretrain/parallel.py.

    python -m tasks.pretrain.rank .runtime/pretrain/JOB.json
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

from tasks import params, stage
from tasks.pretrain import parallel


def main(path: Path) -> int:
    """Run the job in `path` as the rank the launcher's environment names; returns the exit code."""
    stage.die_with_parent()
    parallel.environment(params.section(params.Runtime, "runtime", json.loads(path.read_text(encoding="utf-8"))))
    from tasks.pretrain import loop

    try:
        loop.run(loop.Job.model_validate_json(path.read_text(encoding="utf-8")))
    except stage.StageError as error:
        return stage.fail(1, str(error))
    except Exception as error:
        stage.fail(1, stage.one_line(error))
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
