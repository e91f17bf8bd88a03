# build.json: what was built from what.
file(READ "${PIPEINFER_LLAMA_DIR}/.pipeinfer.json" stamp)
string(JSON upstream GET "${stamp}" upstream)
string(JSON patches GET "${stamp}" patches)

function(pipeinfer_json_string result value)
    string(REPLACE "\\" "\\\\" value "${value}")
    string(REPLACE "\"" "\\\"" value "${value}")
    set(${result} "\"${value}\"" PARENT_SCOPE)
endfunction()

pipeinfer_json_string(compiler "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
pipeinfer_json_string(build_type "${CMAKE_BUILD_TYPE}")

# The options that decide speed or rounding, and the backends; all of them would be over a hundred.
set(names NATIVE OPENMP LLAMAFILE CPU CPU_REPACK)
foreach(backend IN LISTS GGML_AVAILABLE_BACKENDS)
    string(REGEX REPLACE "^ggml-(cpu.*)?" "" backend "${backend}")
    string(TOUPPER "${backend}" backend)
    list(APPEND names "${backend}")
endforeach()
foreach(extension SSE42 AVX AVX2 AVX512 FMA F16C)
    if(GGML_${extension} AND NOT PIPEINFER_VARIANTS)
        list(APPEND names ${extension}) # asked for one by one, where native flags are off
    endif()
endforeach()
set(ggml_options "{}")
foreach(name IN LISTS names)
    if(DEFINED GGML_${name})
        pipeinfer_json_string(value "${GGML_${name}}")
        string(JSON ggml_options SET "${ggml_options}" GGML_${name} "${value}")
    endif()
endforeach()

set(build "{}")
string(JSON build SET "${build}" upstream "${upstream}")
string(JSON build SET "${build}" patches "${patches}")
string(JSON build SET "${build}" compiler "${compiler}")
string(JSON build SET "${build}" ggml_options "${ggml_options}")
string(JSON build SET "${build}" build_type "${build_type}")

# Which state of the source this is, for tables of measurements.
if(EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/.git")
    execute_process(COMMAND git -C "${CMAKE_CURRENT_SOURCE_DIR}" describe --always --dirty "--exclude=*"
        OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    execute_process(COMMAND git -C "${CMAKE_CURRENT_SOURCE_DIR}" rev-list --count HEAD
        OUTPUT_VARIABLE number OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
if(commit AND number)
    pipeinfer_json_string(commit "${commit}")
    string(JSON build SET "${build}" commit "${commit}")
    string(JSON build SET "${build}" number "${number}")
endif()
file(WRITE "${CMAKE_BINARY_DIR}/build.json" "${build}\n")
