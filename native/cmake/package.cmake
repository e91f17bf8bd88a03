# What goes into the Python package beside its modules.
set(library_dir pipeinfer_cli/lib)
install(TARGETS pipeinfer ${PIPEINFER_MPICH_NAME} ${PIPEINFER_LLAMA_TARGETS} LIBRARY DESTINATION ${library_dir})
install(FILES "${CMAKE_BINARY_DIR}/build.json" DESTINATION ${library_dir})
install(FILES "${PIPEINFER_LLAMA_DIR}/LICENSE" DESTINATION ${library_dir} RENAME LICENSE.llama.cpp)
install(FILES "${CMAKE_CURRENT_SOURCE_DIR}/models.toml" DESTINATION pipeinfer_cli)

# Editors look for it in build/, whatever the wheel's tag is.
if(CMAKE_BINARY_DIR MATCHES "^${CMAKE_CURRENT_SOURCE_DIR}/build/")
    file(CREATE_LINK "${CMAKE_BINARY_DIR}/compile_commands.json"
         "${CMAKE_CURRENT_SOURCE_DIR}/build/compile_commands.json" SYMBOLIC)
endif()
