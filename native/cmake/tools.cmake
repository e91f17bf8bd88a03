# llama.cpp's own programs, unpatched and with its own defaults (OpenMP included): what benchmarks put beside ours.
set(PIPEINFER_UPSTREAM_TOOLS
    llama-completion llama-speculative-simple llama-lookup llama-server llama-bench ggml-rpc-server)

set(GGML_RPC ON CACHE INTERNAL "")
set(GGML_OPENMP ON CACHE BOOL "ggml: use OpenMP")
# Nothing is fetched from a network: neither models, nor the pages of the server's web interface.
set(LLAMA_OPENSSL OFF CACHE INTERNAL "")
set(LLAMA_USE_PREBUILT_UI OFF CACHE INTERNAL "")
