# The pinned llama.cpp, patched (or as it is, for the reference and the tools), in the build folder.
set(PIPEINFER_NATIVE_DIR "${CMAKE_CURRENT_SOURCE_DIR}/native")
set(PIPEINFER_LLAMA_DIR "${CMAKE_BINARY_DIR}/llama.cpp")

set(prepare "${PIPEINFER_NATIVE_DIR}/cmake/upstream.py" --pin "${PIPEINFER_NATIVE_DIR}/UPSTREAM"
            --into "${PIPEINFER_LLAMA_DIR}")
if(PIPEINFER_TOOLS)
    list(APPEND prepare --tools)
elseif(NOT PIPEINFER_REFERENCE)
    list(APPEND prepare --patches "${PIPEINFER_NATIVE_DIR}/patches")
endif()

execute_process(
    COMMAND "${Python_EXECUTABLE}" ${prepare}
    RESULT_VARIABLE failed
    OUTPUT_VARIABLE done
    ERROR_VARIABLE error
    OUTPUT_STRIP_TRAILING_WHITESPACE
    ERROR_STRIP_TRAILING_WHITESPACE)
if(failed)
    pipeinfer_fail("${error}")
endif()
message(STATUS "pipeinfer: ${done}")

file(GLOB patches CONFIGURE_DEPENDS "${PIPEINFER_NATIVE_DIR}/patches/*.patch")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
             "${PIPEINFER_NATIVE_DIR}/UPSTREAM" "${PIPEINFER_NATIVE_DIR}/cmake/upstream.py" ${patches})
