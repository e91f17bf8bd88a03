// A link that goes down: with this in LD_PRELOAD, what the engine of rank CUT_RANK sends is lost from the moment on at
// which there is a file CUT_FILE. Messages of CUT_KEEPS bytes, the signs of life, go another way.
#include <mpi.h>
#include <stdlib.h>
#include <unistd.h>

static int is_cut(void) {
    const char * rank = getenv("CUT_RANK");
    const char * own  = getenv("PMI_RANK") ? getenv("PMI_RANK") : getenv("OMPI_COMM_WORLD_RANK");
    return rank && own && atoi(rank) == atoi(own) && access(getenv("CUT_FILE"), F_OK) == 0;
}

int MPI_Isend(const void * data, int count, MPI_Datatype type, int dest, int tag, MPI_Comm comm, MPI_Request * request) {
    if (count != atoi(getenv("CUT_KEEPS")) && is_cut()) {
        dest = MPI_PROC_NULL;
    }
    return PMPI_Isend(data, count, type, dest, tag, comm, request);
}
