"""`fake_parent.py <mpiexec> <family> <ranks> <acts...>`: spawns fake ranks as the CLI would."""

import sys
from pathlib import Path

from pipeinfer_cli.cli import main
from pipeinfer_cli.launch import local
from pipeinfer_cli.launch.environment import Launcher

if __name__ == "__main__":
    mpiexec, family, ranks, *acts = sys.argv[1:]
    job = local.Job(
        launcher=Launcher(mpiexec=mpiexec, family=family),
        ranks=int(ranks),
        program=[sys.executable, str(Path(__file__).with_name("fake_rank.py")), *acts],
    )
    sys.exit(main.guard(lambda: local.spawn(job), verbose=False))
