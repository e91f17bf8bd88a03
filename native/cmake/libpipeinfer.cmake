# Our library: the stage engine behind the C ABI of native/include/pipeinfer.h.
find_package(Threads REQUIRED)

file(GLOB sources CONFIGURE_DEPENDS "${PIPEINFER_NATIVE_DIR}/src/*.cpp")
add_library(pipeinfer SHARED ${sources})
target_include_directories(pipeinfer PRIVATE "${PIPEINFER_NATIVE_DIR}/include")
target_compile_features(pipeinfer PRIVATE cxx_std_17)
target_compile_options(pipeinfer PRIVATE -Wall -Wextra)
target_link_libraries(pipeinfer PRIVATE llama Threads::Threads ${CMAKE_DL_LIBS})
set_target_properties(pipeinfer PROPERTIES
    CXX_EXTENSIONS OFF
    CXX_VISIBILITY_PRESET hidden
    VISIBILITY_INLINES_HIDDEN ON
    INSTALL_RPATH "$ORIGIN")
# Backends that are loaded at run time (GGML_BACKEND_DL) are not linked, but belong to it.
add_dependencies(pipeinfer ${PIPEINFER_LLAMA_TARGETS})

# Nothing but a name: mpi4py's extension for MPICH's family needs a libmpi.so.12, and some of that family call theirs
# otherwise (Debian: libmpich.so.12, Cray: libmpi_gnu_123.so.12). See pipeinfer_cli/engine/loaded.py.
if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
    file(WRITE "${CMAKE_BINARY_DIR}/mpich_name.c" "")
    add_library(mpich_name SHARED "${CMAKE_BINARY_DIR}/mpich_name.c")
    target_link_options(mpich_name PRIVATE "LINKER:-soname,libmpi.so.12")
    set_target_properties(mpich_name PROPERTIES NO_SONAME ON)
    add_dependencies(pipeinfer mpich_name)
    set(PIPEINFER_MPICH_NAME mpich_name)
endif()
