# Our library: the stage engine behind the C ABI of native/include/pipeinfer.h.
find_package(Threads REQUIRED)

file(GLOB sources CONFIGURE_DEPENDS "${PIPEINFER_NATIVE_DIR}/src/*.cpp")
add_library(pipeinfer SHARED ${sources})
target_include_directories(pipeinfer PRIVATE "${PIPEINFER_NATIVE_DIR}/include")
target_compile_features(pipeinfer PRIVATE cxx_std_17)
target_compile_options(pipeinfer PRIVATE -Wall -Wextra)
target_link_libraries(pipeinfer PRIVATE llama pipeinfer_mpi Threads::Threads)
set_target_properties(pipeinfer PROPERTIES
    CXX_EXTENSIONS OFF
    CXX_VISIBILITY_PRESET hidden
    VISIBILITY_INLINES_HIDDEN ON
    INSTALL_RPATH "$ORIGIN;${PIPEINFER_MPI_RPATH}")
# Backends that are loaded at run time (GGML_BACKEND_DL) are not linked, but belong to it.
add_dependencies(pipeinfer ${PIPEINFER_LLAMA_TARGETS})
