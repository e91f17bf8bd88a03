# The MPI of the machine: Open MPI, MPICH, Intel MPI, Cray MPICH, ... through mpicc or a compiler wrapper.

# pip puts its build environment, with the mpich wheel's mpicc, first in PATH; an active virtual
# environment does the same. Neither is the system's.
string(REPLACE ":" ";" folders "$ENV{PATH}")
list(FILTER folders EXCLUDE REGEX "/pip-build-env-")
foreach(folder IN LISTS folders)
    if(EXISTS "${folder}/../pyvenv.cfg")
        list(REMOVE_ITEM folders "${folder}")
    endif()
endforeach()
string(REPLACE ";" ":" path "${folders}")
set(original_path "$ENV{PATH}")
set(ENV{PATH} "${path}")
find_package(MPI QUIET COMPONENTS C)
set(ENV{PATH} "${original_path}")
if(NOT MPI_C_FOUND)
    pipeinfer_fail("PIPEINFER_MPI=system, but no MPI was found: load its module or put its mpicc into PATH, "
                   "or set MPI_HOME, or build with PIPEINFER_MPI=wheel")
endif()
target_link_libraries(pipeinfer_mpi INTERFACE MPI::MPI_C)

# Which MPI it is, from the macros of its mpi.h: this works with any wrapper and runs nothing.
list(TRANSFORM MPI_C_INCLUDE_DIRS PREPEND "-I" OUTPUT_VARIABLE includes)
file(WRITE "${CMAKE_BINARY_DIR}/mpi_macros.c" "#include <mpi.h>\n")
execute_process(
    COMMAND "${CMAKE_C_COMPILER}" ${includes} ${MPI_C_COMPILE_OPTIONS} -dM -E "${CMAKE_BINARY_DIR}/mpi_macros.c"
    OUTPUT_VARIABLE macros
    ERROR_QUIET)

function(pipeinfer_mpi_is family macro)
    if(NOT PIPEINFER_MPI_FAMILY AND macros MATCHES "#define ${macro} \"?([0-9a-z.]+)")
        set(PIPEINFER_MPI_FAMILY ${family} PARENT_SCOPE)
        set(PIPEINFER_MPI_VERSION ${CMAKE_MATCH_1} PARENT_SCOPE)
    endif()
endfunction()
set(PIPEINFER_MPI_FAMILY "")
pipeinfer_mpi_is(cray CRAY_MPICH_VERSION)
pipeinfer_mpi_is(intel I_MPI_VERSION)
pipeinfer_mpi_is(mpich MPICH_VERSION)
pipeinfer_mpi_is(openmpi OMPI_MAJOR_VERSION)
if(PIPEINFER_MPI_FAMILY STREQUAL "openmpi")
    foreach(part MINOR RELEASE)
        string(REGEX MATCH "#define OMPI_${part}_VERSION ([0-9]+)" _ "${macros}")
        string(APPEND PIPEINFER_MPI_VERSION ".${CMAKE_MATCH_1}")
    endforeach()
elseif(NOT PIPEINFER_MPI_FAMILY)
    set(PIPEINFER_MPI_FAMILY unknown)
    set(PIPEINFER_MPI_VERSION unknown)
endif()

set(PIPEINFER_MPI_MPIEXEC "${MPIEXEC_EXECUTABLE}")
if(NOT PIPEINFER_MPI_MPIEXEC)
    set(PIPEINFER_MPI_MPIEXEC "") # Slurm machines may have srun only
endif()

# mpi4py must load the library that we link: its path by the name with the ABI's number (libmpi.so.40).
if(NOT PIPEINFER_MPI_LIBRARY)
    set(linked ${MPI_C_LIBRARIES})
    list(FILTER linked INCLUDE REGEX "/libmpi[^/]*\\.so[^/]*$")
    if(linked)
        list(GET linked 0 linked)
        file(REAL_PATH "${linked}" PIPEINFER_MPI_LIBRARY)
        string(REGEX MATCH "^.*\\.so\\.[0-9]+" with_abi "${PIPEINFER_MPI_LIBRARY}")
        if(EXISTS "${with_abi}")
            set(PIPEINFER_MPI_LIBRARY "${with_abi}")
        endif()
    elseif(PIPEINFER_MPI_FAMILY STREQUAL "openmpi")
        set(PIPEINFER_MPI_LIBRARY libmpi.so.40)
    elseif(PIPEINFER_MPI_FAMILY STREQUAL "cray")
        # A compiler wrapper links it; its file is named after the compiler suite.
        pipeinfer_fail("cannot see which libmpi the compiler wrapper links: "
                       "set PIPEINFER_MPI_LIBRARY, for example to libmpi_gnu_123.so.12")
    else()
        set(PIPEINFER_MPI_LIBRARY libmpi.so.12)
    endif()
endif()
set(PIPEINFER_MPI_RPATH "") # CMAKE_INSTALL_RPATH_USE_LINK_PATH adds its folder
