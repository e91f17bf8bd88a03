"""What libpipeinfer is told of the MPI of this process, in JSON."""

import json
from dataclasses import asdict

from pipeinfer_cli.launch import mpi
from pipeinfer_cli.launch.host import mpi_choice

comm = mpi.start()
if comm.rank == 0:
    chosen = mpi_choice.choose()
values = asdict(mpi.calls(comm))
if comm.rank == 0:
    print(json.dumps({"abi": chosen.abi, "family": chosen.family, **values}))
mpi.finish()
