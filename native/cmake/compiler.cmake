# C and C++ compilers, with one clear line where there is none.
include(CheckLanguage)

if(NOT CMAKE_BUILD_TYPE)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

function(pipeinfer_need_compiler language name variable)
    if(CMAKE_${language}_COMPILER STREQUAL "NOTFOUND")
        unset(CMAKE_${language}_COMPILER CACHE) # one may have been installed since
    endif()
    check_language(${language})
    if(NOT CMAKE_${language}_COMPILER)
        pipeinfer_fail("no ${name} compiler found: install gcc and g++, or clang, or set ${variable}")
    endif()
endfunction()

pipeinfer_need_compiler(C "C" CC)
pipeinfer_need_compiler(CXX "C++" CXX)
enable_language(C)
enable_language(CXX)
