# libllama and ggml as shared libraries, and for benchmarks some programs of llama.cpp. GGML_* options of the user reach it
# as they are; only defaults are set here.
set(BUILD_SHARED_LIBS ON)
include(variants)
if(NOT PIPEINFER_VARIANTS OR PIPEINFER_TOOLS)
    set(GGML_NATIVE ON CACHE BOOL "ggml: optimize the build for the current system")
elseif(PIPEINFER_REFERENCE)
    pipeinfer_use_flags_of("${PIPEINFER_BEST_VARIANT}") # one backend, whose bits are those of ours
else()
    set(GGML_NATIVE OFF)
    set(GGML_BACKEND_DL ON)
    set(GGML_CPU_ALL_VARIANTS ON)
    set(GGML_CPU_VARIANTS ${PIPEINFER_VARIANTS})
endif()
if(PIPEINFER_TOOLS)
    include(tools)
elseif(NOT PIPEINFER_REFERENCE)
    # libgomp keeps a team for each thread that ever computed, and has barriers sleep once the teams together have
    # more threads than there are cores: contexts have a ggml threadpool instead.
    set(GGML_OPENMP OFF CACHE BOOL "ggml: use OpenMP")
endif()
# AMX computes several tokens with other instructions than one, upstream aborts on models whose attention is not
# contiguous there (DeepSeek 2), and GCC 12 compiles its set-up into an illegal instruction: kept out, in the
# reference and the programs for benchmarks, too. No variant of ours has it.
include(CheckCCompilerFlag)
foreach(part tile int8 bf16)
    check_c_compiler_flag(-mno-amx-${part} PIPEINFER_KNOWS_AMX_${part})
    if(PIPEINFER_KNOWS_AMX_${part})
        add_compile_options($<$<COMPILE_LANGUAGE:C,CXX>:-mno-amx-${part}>)
    endif()
endforeach()
foreach(part TESTS APP UI)
    set(LLAMA_BUILD_${part} OFF CACHE INTERNAL "")
endforeach()
foreach(part COMMON TOOLS EXAMPLES SERVER)
    set(LLAMA_BUILD_${part} ${PIPEINFER_TOOLS} CACHE INTERNAL "")
endforeach()
set(LLAMA_ALL_WARNINGS OFF CACHE INTERNAL "")
# llama.cpp would take this repository's commit for its own, and rebuild at every commit.
set(GIT_EXE "" CACHE INTERNAL "")
set(LLAMA_BUILD_NUMBER 0)
set(LLAMA_BUILD_COMMIT "pinned")

# All libraries lie side by side, in the build folder and in the package alike.
set(CMAKE_BUILD_WITH_INSTALL_RPATH ON)
set(CMAKE_INSTALL_RPATH "$ORIGIN")
set(CMAKE_INSTALL_RPATH_USE_LINK_PATH ON) # an MPI, BLAS or CUDA in a folder of its own
# RPATH, not RUNPATH: libraries of the same names in LD_LIBRARY_PATH must not take the place of ours.
if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
    add_link_options(LINKER:--disable-new-dtags)
endif()
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")

unset(GGML_AVAILABLE_BACKENDS CACHE) # ggml only adds to it: another list of variants has left its own
# EXCLUDE_FROM_ALL also leaves out its install rules (headers, CMake files, .pc files).
add_subdirectory("${PIPEINFER_LLAMA_DIR}" llama EXCLUDE_FROM_ALL)

set(PIPEINFER_LLAMA_TARGETS llama ggml ggml-base ${GGML_AVAILABLE_BACKENDS})
# No version in the file names: a wheel would hold each library three times in place of its symlinks.
foreach(target IN LISTS PIPEINFER_LLAMA_TARGETS)
    set_property(TARGET ${target} PROPERTY VERSION)
    set_property(TARGET ${target} PROPERTY SOVERSION)
    set_property(TARGET ${target} PROPERTY PUBLIC_HEADER) # not installed
endforeach()
# An assertion of its C files becomes an exception: see native/src/assertions.cpp.
target_compile_options(ggml-base PRIVATE $<$<COMPILE_LANGUAGE:C>:-fexceptions>)
if(PIPEINFER_REFERENCE)
    # linked, and also loaded in the place of ours: benchmarks/kernels_whole.py
    target_compile_definitions(ggml-cpu PRIVATE GGML_BACKEND_DL)
    add_custom_target(reference ALL DEPENDS ${PIPEINFER_LLAMA_TARGETS})
elseif(PIPEINFER_TOOLS)
    add_custom_target(tools ALL DEPENDS ${PIPEINFER_UPSTREAM_TOOLS})
elseif(PIPEINFER_KERNELS)
    add_custom_target(kernels ALL DEPENDS ${GGML_AVAILABLE_BACKENDS})
endif()
