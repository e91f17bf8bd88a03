"""Two ranks without model and MPI whose parent talks with rank 0, for tests of local_input.

`talking.py MPIEXEC FOLDER`: rank 0 shows each line in JSON. At the line "answer" it goes on until
its parent says that it is enough. Rank 1 ends with code 3 once FOLDER has a file `die`.
"""

import json
import os
import sys
import time
from pathlib import Path

from pipeinfer_cli.cli import main
from pipeinfer_cli.commands.chat.interrupts import Interrupts
from pipeinfer_cli.commands.chat.lines import open_lines, read_line
from pipeinfer_cli.launch import environment, local, local_rank, supervisor
from pipeinfer_cli.launch.environment import Launcher


def rank(place: Path) -> int:
    number = environment.detect(os.environ).rank
    supervisor.enter_local(place, number)
    if number == 0:
        talk()
        Path(sys.argv[2], "over").touch()
        return 0
    while not Path(sys.argv[2], "over").exists():
        time.sleep(0.02)
        if Path(sys.argv[2], "die").exists():
            return 3
    return 0


def talk() -> None:
    lines, interrupts = open_lines(), Interrupts()
    while (line := lines.read()) is not None:
        print(json.dumps(line), flush=True)
        if line == "answer":
            with interrupts.answering():
                print("answering", flush=True)
                while not interrupts():
                    time.sleep(0.01)
            print("interrupted", flush=True)
    print("end", flush=True)


def parent() -> int:
    mpiexec, folder = sys.argv[1:]
    job = local.Job(
        launcher=Launcher(mpiexec=mpiexec, family="mpich"),
        ranks=2,
        program=[sys.executable, __file__, mpiexec, folder],
        read_line=read_line,
    )
    return main.guard(lambda: local.spawn(job), verbose=False)


if __name__ == "__main__":
    local_rank.REPEAT_S = 0.0  # tests are quicker with Ctrl-C than people
    folder = local_rank.folder()
    if folder is None:
        sys.exit(parent())
    sys.exit(main.run_rank(folder, lambda: rank(folder)))
