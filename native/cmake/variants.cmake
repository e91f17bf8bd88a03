# ggml's CPU backend is built for several sets of instructions, its variants: libraries of their own, of which each
# process loads the best one that its processor can run (pipeinfer_cli/engine/cpu/variants.py). Names are ggml's.
#
# PIPEINFER_CPU_VARIANTS: auto (the best one for this machine, and what other machines can run), all, or a list. With flags
# of llama.cpp's own for the CPU (-DGGML_NATIVE=ON, -DGGML_AVX2=ON), there is one backend, with these flags.
#
# Sets: PIPEINFER_VARIANTS (best first; empty: one backend), PIPEINFER_BEST_VARIANT (of these, for this machine; cross
# compiled: the least), PIPEINFER_FEATURES_<variant>.
set(PIPEINFER_CPU_VARIANTS auto CACHE STRING "auto, all, or a list of variants of ggml's CPU backend")

# What a variant may use, in ggml/src/CMakeLists.txt's words. Those with AMX are left out: see llama.cmake. So are those
# for which our sources and ggml's have no code of their own (VBMI: icelake is cascadelake, cooperlake zen4).
set(x86_avx2 SSE42 AVX F16C FMA AVX2 BMI2)
set(PIPEINFER_FEATURES_zen4 ${x86_avx2} AVX512 AVX512_VBMI AVX512_VNNI AVX512_BF16)
set(PIPEINFER_FEATURES_cascadelake ${x86_avx2} AVX512 AVX512_VNNI)
set(PIPEINFER_FEATURES_skylakex ${x86_avx2} AVX512)
set(PIPEINFER_FEATURES_alderlake ${x86_avx2} AVX_VNNI)
set(PIPEINFER_FEATURES_haswell ${x86_avx2})
set(PIPEINFER_FEATURES_sse42 SSE42)
set(PIPEINFER_FEATURES_armv8.6_2 DOTPROD FP16_VECTOR_ARITHMETIC SVE MATMUL_INT8 SVE2)
set(PIPEINFER_FEATURES_armv8.6_1 DOTPROD FP16_VECTOR_ARITHMETIC SVE MATMUL_INT8)
set(PIPEINFER_FEATURES_armv8.2_3 DOTPROD FP16_VECTOR_ARITHMETIC SVE)
set(PIPEINFER_FEATURES_armv8.2_2 DOTPROD FP16_VECTOR_ARITHMETIC)
set(PIPEINFER_FEATURES_armv8.2_1 DOTPROD)
set(PIPEINFER_FEATURES_armv8.0_1)

set(known "")
if(CMAKE_SYSTEM_NAME STREQUAL "Linux" AND CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
    set(known zen4 cascadelake skylakex alderlake haswell sse42) # best first
    set(anywhere haswell sse42)
    set(native -march=native)
elseif(CMAKE_SYSTEM_NAME STREQUAL "Linux" AND CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
    set(known armv8.6_2 armv8.6_1 armv8.2_3 armv8.2_2 armv8.2_1 armv8.0_1)
    set(anywhere armv8.2_1 armv8.0_1)
    set(native -mcpu=native)
endif()

# Flags that the user has given, now or when this build folder was made.
foreach(flag NATIVE CPU_ARM_ARCH CPU_ALL_VARIANTS SSE42 AVX AVX2 AVX_VNNI AVX512 AVX512_VBMI AVX512_VNNI AVX512_BF16 BMI2
             FMA F16C)
    get_property(help CACHE GGML_${flag} PROPERTY HELPSTRING)
    if(help MATCHES "command line")
        set(PIPEINFER_OWN_CPU_FLAGS ON CACHE INTERNAL "")
    endif()
endforeach()

# The compiler's macro of a feature.
function(pipeinfer_feature_macro result feature)
    if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
        set(macro "__ARM_FEATURE_${feature}")
    else()
        string(REPLACE "_" "" macro "__${feature}__")
        set(macro "__${macro}__")
        string(REGEX REPLACE "^__SSE42__$" "__SSE4_2__" macro "${macro}")
        string(REGEX REPLACE "^__AVX512__$" "__AVX512VL__" macro "${macro}") # which needs the others
    endif()
    set(${result} "${macro}" PARENT_SCOPE)
endfunction()

# The first of the variants that this machine can run; none where the compiler does not say.
function(pipeinfer_best_variant result)
    execute_process(COMMAND "${CMAKE_CXX_COMPILER}" ${native} -dM -E -x c++ /dev/null
        OUTPUT_VARIABLE macros ERROR_QUIET RESULT_VARIABLE failed)
    set(${result} "" PARENT_SCOPE)
    if(failed OR CMAKE_CROSSCOMPILING)
        return()
    endif()
    foreach(variant IN LISTS ARGN)
        set(fits TRUE)
        foreach(feature IN LISTS PIPEINFER_FEATURES_${variant})
            pipeinfer_feature_macro(macro ${feature})
            if(NOT macros MATCHES "#define ${macro} ")
                set(fits FALSE)
            endif()
        endforeach()
        if(fits)
            set(${result} ${variant} PARENT_SCOPE)
            return()
        endif()
    endforeach()
endfunction()

# One backend, with the flags of a variant.
macro(pipeinfer_use_flags_of variant)
    set(GGML_NATIVE OFF)
    foreach(feature SSE42 AVX AVX2 AVX_VNNI AVX512 AVX512_VBMI AVX512_VNNI AVX512_BF16 BMI2 FMA F16C)
        set(GGML_${feature} OFF)
    endforeach()
    foreach(feature IN LISTS PIPEINFER_FEATURES_${variant})
        set(GGML_${feature} ON)
    endforeach()
    if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
        string(JOIN "+" tags armv8-a ${PIPEINFER_FEATURES_${variant}})
        string(TOLOWER "${tags}" tags)
        string(REPLACE "fp16_vector_arithmetic" "fp16" tags "${tags}")
        string(REPLACE "matmul_int8" "i8mm" tags "${tags}")
        string(REGEX REPLACE "^armv8-a([+].*i8mm)" "armv8.6-a\\1" tags "${tags}")
        string(REGEX REPLACE "^armv8-a[+]" "armv8.2-a+" GGML_CPU_ARM_ARCH "${tags}")
    endif()
endmacro()

set(PIPEINFER_VARIANTS "")
set(PIPEINFER_BEST_VARIANT "")
if(NOT known OR PIPEINFER_OWN_CPU_FLAGS)
    return()
endif()
string(REPLACE "," ";" wanted "${PIPEINFER_CPU_VARIANTS}")
if(wanted STREQUAL "auto")
    pipeinfer_best_variant(best ${known})
    set(wanted ${best} ${anywhere})
elseif(wanted STREQUAL "all")
    set(wanted ${known})
endif()
foreach(variant IN LISTS known)
    if(variant IN_LIST wanted)
        list(APPEND PIPEINFER_VARIANTS ${variant})
        list(REMOVE_ITEM wanted ${variant})
    endif()
endforeach()
if(wanted OR NOT PIPEINFER_VARIANTS)
    string(JOIN ", " names ${known})
    pipeinfer_fail("PIPEINFER_CPU_VARIANTS=${PIPEINFER_CPU_VARIANTS}: give auto, all or a list of ${names}")
endif()
pipeinfer_best_variant(PIPEINFER_BEST_VARIANT ${PIPEINFER_VARIANTS})
if(NOT PIPEINFER_BEST_VARIANT)
    list(GET PIPEINFER_VARIANTS -1 PIPEINFER_BEST_VARIANT)
endif()
