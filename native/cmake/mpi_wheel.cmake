# The mpich wheel of the Python environment that builds.
set(script [=[
from importlib.metadata import distribution
wheel = distribution("mpich")
paths = {path.name: path for path in wheel.files}
print(*(wheel.locate_file(paths[name]).resolve() for name in ("mpi.h", "libmpi.so.12")), wheel.version, sep=";")
]=])
execute_process(
    COMMAND "${Python_EXECUTABLE}" -c "${script}"
    RESULT_VARIABLE failed
    OUTPUT_VARIABLE found
    ERROR_QUIET
    OUTPUT_STRIP_TRAILING_WHITESPACE)
if(failed)
    pipeinfer_fail("the mpich wheel is not installed for ${Python_EXECUTABLE}: "
                   "pip install mpich, or build with PIPEINFER_MPI=system")
endif()
list(GET found 0 header)
list(GET found 1 library)
list(GET found 2 PIPEINFER_MPI_VERSION)

# pip's build environment is a new temporary folder each time. With copies in the build folder the
# compile commands stay the same, and nothing is compiled again that has not changed.
set(copy "${CMAKE_BINARY_DIR}/mpich")
get_filename_component(include_dir "${header}" DIRECTORY)
file(MAKE_DIRECTORY "${copy}")
foreach(file "${header}" "${include_dir}/mpi_proto.h" "${library}")
    get_filename_component(name "${file}" NAME)
    file(COPY_FILE "${file}" "${copy}/${name}" ONLY_IF_DIFFERENT)
endforeach()
target_include_directories(pipeinfer_mpi SYSTEM INTERFACE "${copy}")
target_link_libraries(pipeinfer_mpi INTERFACE "${copy}/libmpi.so.12")

set(PIPEINFER_MPI_FAMILY mpich)
set(PIPEINFER_MPI_MPIEXEC "")
set(PIPEINFER_MPI_LIBRARY libmpi.so.12)
# From <venv>/lib/python3.x/site-packages/pipeinfer_cli/lib, or lib64, to <venv>/lib.
set(PIPEINFER_MPI_RPATH "$ORIGIN/../../../.." "$ORIGIN/../../../../../lib")
