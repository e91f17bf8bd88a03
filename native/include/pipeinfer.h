// The C ABI of libpipeinfer: the stage engine.
//
// A model is split by layers into stages, one per rank. Rank 0 is the head: it submits runs, waits for results
// and cancels. A run is one batch of tokens on its way through the stages. The other ranks serve until the head closes.
//
// An engine is used by one thread at a time, but for pi_nudge, pi_give_up and pi_activity; nothing calls back into the caller.
// All strings are UTF-8 and NUL-terminated. Struct sizes are checked against pi_abi_sizes() by the caller.

#ifndef PIPEINFER_H
#define PIPEINFER_H

#include <stddef.h>
#include <stdint.h>

#define PI_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

// Return codes. After PI_ERR_INVALID the engine is what it was before the call. After PI_ERR_FAILED only pi_last_error, the
// calls for any thread and pi_engine_close may be called on it.
enum pi_status {
    PI_OK          = 0,
    PI_TIMEOUT     = 1, // nothing happened in the time given
    PI_STOPPED     = 2, // the head has ended the job
    PI_ERR_INVALID = -1, // an argument, or a run that breaks the rules below
    PI_ERR_MODEL   = -2, // the model file cannot be read or used
    PI_ERR_FAILED  = -3, // a stage has failed: the message says which and why
};

enum pi_limits {
    PI_MAX_SEQ     = 256, // sequence ids are [0, PI_MAX_SEQ)
    PI_MAX_THREADS = 512, // ggml's own limit
    PI_MAX_CPUS    = 512, // that threads can be bound to: their numbers are below; ggml's own limit
    PI_MAX_NODES   = 1024, // NUMA nodes of memory: their numbers are below; the kernel's own limit
    PI_MAX_TOP     = 16, // tokens of one pi_sample_top
    PI_MAX_ROWS    = 32, // tokens of a run that want a row
};

enum pi_kv_kind {
    PI_KV_COPY    = 1, // the cells of seq_src in [pos_first, pos_last) also belong to seq_dst
    PI_KV_REMOVE  = 2, // the cells in [pos_first, pos_last) no longer belong to seq_src; -1 means all sequences
    PI_KV_COMPACT = 3, // the used cells move over the free ones before them, in their order; other fields unused
};

// How a token is drawn from logits: the same for all ranks, so that a draft draws as the last stage does. The filters are
// llama.cpp's, in this order; they act when temperature > 0.
struct pi_sample_params {
    float    temperature; // 0: greedy
    int32_t  top_k; // the most likely tokens to choose from; 0: all
    float    top_p; // of these as few as have this probability together; 1: all
    float    min_p; // of these the ones with this share of the most likely one's probability; 0: all
    uint64_t seed;
};

// One operation on the KV cache of every stage. It travels with a run and is applied before the run is decoded, in order,
// even if the run is cancelled. Positions are half-open; pos_last = -1 means to the end.
struct pi_kv_op {
    int32_t kind; // enum pi_kv_kind
    int32_t seq_src;
    int32_t seq_dst;
    int32_t pos_first;
    int32_t pos_last;
};

// One token of a run.
struct pi_token {
    int32_t id;
    int32_t position;
    int32_t n_seq; // how many of the run's seq_ids are this token's: they follow one another in the order of the tokens
    int32_t want; // 1: the result has a row (the sampled next token) for this token
    int32_t sample; // how that row is drawn: an index into the run's samples; -1: as the engine's parameters say
    int32_t mask; // what may be drawn: an index into the run's masks; -1: any token
};

// A run as the head submits it. Run ids grow from run to run. A run without tokens carries KV operations only.
// A token sees the cells of its first sequence id, up to its own position. The tokens of a tree:
// - In a run, each sequence has one token at a position, and positions without a gap, in rising order.
// - They continue where the sequence's cells end. Sequences that share a token have cells for the same positions.
// The first rule is checked by pi_submit, the second by each stage: it fails.
// Several requests may share a run: their tokens have sequences of their own.
// A mask has a bit for each token of the vocabulary, the lowest one of its first word for token 0: those with a zero are not
// drawn. To draw, their logits are -INFINITY before all filters. A mask that allows no token is a failure of the last stage.
struct pi_run {
    uint64_t                        run_id;
    int32_t                         n_kv_ops;
    int32_t                         n_tokens;
    int32_t                         n_seq_ids;
    int32_t                         n_samples;
    int32_t                         n_masks;
    int32_t                         n_mask_words; // of one of them: n_vocab / 32, rounded up
    const struct pi_kv_op *         kv_ops;
    const struct pi_token *         tokens;
    const int32_t *                 seq_ids;
    const struct pi_sample_params * samples; // [n_samples], at most one for each token
    const uint32_t *                masks; // [n_masks, n_mask_words], at most one for each token that wants a row
};

enum pi_run_status {
    PI_COMPLETED = 0, // every stage has decoded the run
    PI_CANCELLED = 1, // given up by a stage before or during its compute: no rows
    PI_ABORTED   = 2, // only of a stage's own part: given up in mid-compute
};

// What one stage did for one run. Clocks of different hosts have nothing in common: compare start_us on one host only.
struct pi_stage_time {
    uint64_t start_us; // host's monotonic clock when the run's turn came
    uint32_t wait_us; // from arrival to start
    uint32_t compute_us; // from start to end, KV operations included
    int32_t  stage;
    int32_t  status; // enum pi_run_status
    uint32_t in_bytes; // of the message that brought the run; 0 from within the process
    uint32_t late_us; // emulated: by how much the real compute ended later than the stage's time; 0: in time
};

// A run's result. The pointers stay valid until the next pi_wait on this engine.
struct pi_result {
    uint64_t                     run_id;
    int32_t                      status; // enum pi_run_status
    int32_t                      n_rows;
    int32_t                      n_times;
    uint32_t                     in_bytes; // of the message that brought the result; 0 from within the process
    const int32_t *              rows; // [n_rows] sampled token ids, in the order of the tokens that wanted a row
    const struct pi_stage_time * times; // [n_times] in the order of the stages
};

// A rank of a slower machine. Its stage computes, then waits until the machine would be through; messages to it come when
// they would come there. Then pi_stage_time has that machine's times. A cancel is heard after the link's latency. All
// ranks must be on one host.
struct pi_emulation {
    const uint32_t * stage_us; // [n_stage_us] how long a run of 1, 2, ... tokens takes; unused without a stage
    int32_t          n_stage_us; // as many as n_batch or more
    uint32_t         latency_us; // of the link that brings this rank its runs, or the head its results
    double           bytes_per_us; // of that link
    uint32_t         hidden_bytes; // of one token's hidden states, to that link
};

// Layers with a recurrent state (hybrids) have no cells to take away. Each stage keeps their states after some of a
// sequence's last tokens instead, and a COPY or REMOVE must cut a sequence after one of these, else the stage fails.
struct pi_states {
    int32_t n_places; // for what a run leaves of a sequence; sequence ids are [0, n_places]
    int32_t n_runs; // of a sequence: its last run's states are kept, and those of this number of runs before
    int32_t n_tokens; // of a run: its last tokens, less than n_batch; where llama.cpp keeps no more, the very last
};

// A LoRA adapter: a GGUF, of which a stage takes what is of its layers.
struct pi_adapter {
    const char * path;
    float        scale; // 0: the adapter is loaded, and without effect
};

// Where a model's layers are computed. Their part of the KV cache is there, too; embeddings of tokens are always the CPU's.
struct pi_devices {
    const char * const * names; // [n_names] as ggml calls devices of backends that the process has loaded
    int32_t              n_names; // 0: all layers are the CPU's
    int32_t              n_layers; // the last ones of a stage, the output being one more; -1: all
};

// What a rank has in memory of devices: bytes.
struct pi_device_bytes {
    uint64_t weights;
    uint64_t cache; // of KV
    uint64_t compute; // buffers
};

// Other rotations of positions than the GGUF's, as llama_context_params has them: a value that stands for the GGUF's own is
// said with each.
struct pi_rope {
    int32_t scaling; // enum llama_rope_scaling_type; -1
    float   freq_base; // 0
    float   freq_scale; // 0
    float   yarn_ext_factor; // below 0, as the following ones
    float   yarn_attn_factor;
    float   yarn_beta_fast;
    float   yarn_beta_slow;
    int32_t yarn_orig_ctx; // 0
};

// How to reach the MPI of this process. Its functions are looked up by name, and the values are those of its mpi.h: who made
// the communicators has been compiled with that. Handles (MPI_Comm, MPI_Datatype, MPI_Request) are all of one size.
struct pi_mpi {
    const char * library; // the path of a loaded library that is linked with this MPI, or its libmpi
    int32_t      handle_bytes; // sizeof(MPI_Comm): 4 or 8
    int32_t      status_bytes; // sizeof(MPI_Status)
    int32_t      any_source; // MPI_ANY_SOURCE
    uint64_t     byte_type; // MPI_BYTE; a handle of 4 bytes is zero-extended
    uint64_t     null_request; // MPI_REQUEST_NULL
    uint64_t     comm_data; // two communicators with the ranks of the job
    uint64_t     comm_control;
};

struct pi_engine_params {
    const char * model_path;
    int32_t      rank; // this process
    int32_t      n_ranks; // 1: no MPI call is ever made
    int32_t      stage_rank0; // the rank of the first stage: 0, or 1 if the head holds no layers
    int32_t      layer_first; // this rank's layers [layer_first, layer_last); equal: none
    int32_t      layer_last;
    int32_t      n_ctx; // most tokens of a text: what a model knows as the context's size
    int32_t      n_cells; // of the KV cache, for the tokens of all texts and branches; a multiple of 256 is made of it
    int32_t      type_k; // of the keys in the KV cache, the same on all ranks: an enum ggml_type
    int32_t      type_v; // of the values
    int32_t      n_batch; // most tokens in a run
    int32_t      n_threads; // compute threads of this rank
    int32_t has_own_cores; // 1: the host has a core for each compute thread of its ranks; then idle threads may spin
    const int32_t * cpus; // [n_cpus] the compute threads run on these only; memory is taken near them
    int32_t         n_cpus; // 0: they run where this process may
    const int32_t * nodes; // [n_nodes] NUMA nodes: memory is taken from several in turn; mapped files move to them
    int32_t         n_nodes; // 0: memory is near who first writes to it, and files are where they were cached
    int32_t         shares_cores; // 1: the draft models of this process compute on the same cores: one at a time does
    int32_t         reads_weights; // 1: read this rank's weights into memory instead of mapping the file
    int32_t         locks_memory; // 1: as reads_weights, and what the process has once it is loaded is not paged out

    const struct pi_mpi *       mpi; // NULL with one rank
    struct pi_states            states; // of models that have some
    struct pi_sample_params     sample;
    const struct pi_emulation * emulation; // NULL: none

    const struct pi_adapter * adapters; // [n_adapters], the same for all ranks
    int32_t                   n_adapters;
    struct pi_rope            rope;
    struct pi_devices         devices;
    // 0: a run is computed as it is. Else as many runs of this number of tokens as it takes, at most PI_MAX_ROWS, filled with
    // tokens that nothing depends on: then logits do not depend on what else is in a run, whatever the kernels of a
    // backend are like. The sequence id PI_MAX_SEQ - 1 is not the runs' then. The same for all ranks.
    int32_t                   exact_shape;
};

// How to write a GGUF again. The notes have at most 127 bytes; they become metadata, pipeinfer.derived.*
struct pi_quantize_params {
    int32_t         file_type; // enum llama_ftype; -1: tensors stay as they are
    int32_t         n_threads;
    int32_t         n_left_out;
    const int32_t * left_out; // [n_left_out] layers that the new file does without; those after them move up
    const char *    zero_key; // a number of the metadata (uint32) that becomes 0, or NULL
    const char *    note_source; // .source: the file's name
    const char *    note_sha256; // .source_sha256
    const char *    note_how; // .how: what was changed
};

struct pi_draft_params {
    const char *    model_path;
    int32_t         n_ctx; // most tokens of a text, as in pi_engine_params
    int32_t         n_cells; // of the KV cache, for the text and its branches
    int32_t         type_k; // as in pi_engine_params
    int32_t         type_v;
    int32_t         n_batch; // most tokens in a run
    int32_t         n_threads; // compute threads of its own
    int32_t         has_own_cores; // 1: idle threads may spin
    const int32_t * cpus; // [n_cpus] as in pi_engine_params; the caller of pi_draft_expand, too, while it computes
    int32_t         n_cpus;
    const int32_t * nodes; // [n_nodes] as in pi_engine_params
    int32_t         n_nodes;

    struct pi_devices devices;
};

struct pi_engine;
struct pi_draft;
struct pi_vocab;
struct llama_model;

// sizes[]: pi_kv_op, pi_token, pi_run, pi_stage_time, pi_result, pi_sample_params, pi_emulation, pi_engine_params,
// pi_quantize_params, pi_draft_params, pi_adapter, pi_rope, pi_states, pi_mpi, pi_devices, pi_device_bytes
PI_API void pi_abi_sizes(size_t sizes[16]);

// Take over llama.cpp's log: its errors become our messages; with verbose, warnings and errors go to stderr as well. Take
// over its assertions, too: one that a model file fails becomes an error of the call, or of the engine (PI_ERR_FAILED).
// Only on a worker thread of pi_quantize it still ends the process, with a line on stderr. Once per process and before
// anything else; again if another user of llama.cpp has set its own.
PI_API void pi_log_capture(int32_t verbose);
// Its warnings and errors are appended to this open file, too: a line each, with the time and `name`; fd -1 ends that.
PI_API void pi_log_file(int32_t fd, const char * name);

// Its warnings since the last call, each once, with a newline between them; longer than size - 1 bytes is cut.
PI_API void pi_log_warnings(char * text, size_t size);

// The i-th architecture that can be split by layers; NULL after the last one.
PI_API const char * pi_stage_arch(int32_t i);

// Whether models of an architecture have layers with a recurrent state: 0: no; 1: yes; 2: yes, and states inside a run can
// be kept.
PI_API int32_t pi_arch_states(const char * arch);

// The vocabulary of a GGUF, loaded without its tensors. NULL with one line in err on failure.
PI_API struct pi_vocab *          pi_vocab_open(const char * path, char * err, size_t err_size);
// For llama.cpp's own functions; it lives as long as the vocabulary.
PI_API const struct llama_model * pi_vocab_model(const struct pi_vocab * vocab);
// The tokens of a text (n_bytes of UTF-8) into tokens[n_max]; *n says how many there are. Control tokens that the text
// spells are recognised, none is added, whatever the GGUF says. However long its words are: on a thread with a stack as
// large as it takes. PI_ERR_INVALID if there are more than n_max; PI_ERR_FAILED with one line in err if it cannot be
// tokenized.
PI_API int  pi_vocab_tokenize(const struct pi_vocab * vocab, const char * text, size_t n_bytes, int32_t n_max,
                              int32_t * n, int32_t * tokens, char * err, size_t err_size);
PI_API void pi_vocab_close(struct pi_vocab * vocab);

// A tensor type (enum ggml_type): its blocks hold n_elements in n_bytes. PI_ERR_INVALID if there is no such type.
PI_API int pi_tensor_type(int32_t type, int32_t * n_elements, int32_t * n_bytes);

// Write `source` (of several files, the first) again as `target`. PI_ERR_MODEL with one line in err on failure; then, and
// when the disk was full, what is in `target` is not to be used: check its header.
PI_API int pi_quantize(const char * source, const char * target, const struct pi_quantize_params * params, char * err,
                       size_t err_size);

// The token to stand at `position`, from the logits [n_vocab] of the one before it: as the last stage of an engine with
// these parameters would draw it, a pure function of the arguments. With probability not NULL, also the token's softmax
// probability over the whole vocabulary at temperature 1, without filters. PI_ERR_INVALID if n_vocab < 1 or position < 0.
// Needs no engine; safe to call from any number of threads.
PI_API int pi_sample(const float * logits, int32_t n_vocab, int32_t position, const struct pi_sample_params * params,
                     int32_t * token, float * probability);

// The n_max (at most PI_MAX_TOP) best tokens in the order of that draw, the first one pi_sample's: by logit when greedy, the
// lowest id first on ties; else by logits/temperature plus noise. Fills tokens[] and, if not NULL, probabilities[], each as
// pi_sample's; *n says how many, fewer where the filters leave fewer. PI_ERR_INVALID as for pi_sample, or if n_max is out of
// [1, PI_MAX_TOP].
PI_API int pi_sample_top(const float * logits, int32_t n_vocab, int32_t position,
                         const struct pi_sample_params * params, int32_t n_max, int32_t * n, int32_t * tokens,
                         float * probabilities);

// A draft model in the head's process, used by one thread at a time: a pipeline of one stage, which computes a run during
// the call. Draft models of one process compute in turn. NULL with one line in err on failure, and *status as of
// pi_engine_open; nothing is left behind then.
PI_API struct pi_draft * pi_draft_open(const struct pi_draft_params * params, int * status, char * err,
                                       size_t err_size);
// Of its vocabulary: the number of tokens, and the id that ends a text (-1: none).
PI_API void              pi_draft_vocab(struct pi_draft * draft, int32_t * n_tokens, int32_t * eos);
// Apply a run's KV operations, feed its tokens, and say what may follow each one that wants a row: in their order, n[n_rows],
// tokens[n_rows][n_max] and probabilities[n_rows][n_max], each row as pi_sample_top of the first n_vocab ids. Of these only
// what a row's mask allows: probabilities are of its tokens alone, and n is 0 if there are none. The run keeps the rules of
// pi_submit; its id, and how its rows are drawn otherwise, do not matter. PI_ERR_INVALID, or PI_ERR_FAILED if llama.cpp
// fails: pi_draft_error says why.
PI_API int pi_draft_expand(struct pi_draft * draft, const struct pi_run * run, int32_t n_vocab,
                           const struct pi_sample_params * params, int32_t n_max, int32_t * n, int32_t * tokens,
                           float * probabilities);
PI_API const char * pi_draft_error(struct pi_draft * draft);
PI_API void         pi_draft_close(struct pi_draft * draft);

// Load this rank's layers and start its threads. NULL with one line in err on failure; nothing is left behind then.
// *status is PI_ERR_MODEL if the file cannot be used, PI_ERR_FAILED for other reasons.
PI_API struct pi_engine * pi_engine_open(const struct pi_engine_params * params, int * status, char * err,
                                         size_t err_size);

// The head's calls; none blocks for longer than asked.
// pi_submit: PI_ERR_INVALID if the run breaks a rule; the arrays are copied.
PI_API int pi_submit(struct pi_engine * engine, const struct pi_run * run);
// Every submitted run has exactly one result, in the order of submission.
PI_API int pi_wait(struct pi_engine * engine, int32_t timeout_ms, struct pi_result * result);
// Have a pi_wait that is under way, or else the next one that has no result to return, return PI_TIMEOUT at once. For
// any thread. PI_ERR_FAILED if the engine has failed; pi_last_error does not say why, then.
PI_API int pi_nudge(struct pi_engine * engine);
// Give up the runs [run_first, run_last], wherever they are. A stage that computes one of them aborts. Runs that are
// already done, and ids that are not submitted yet, are left alone. Runs that rest on the cells of a cancelled one must be
// cancelled with it: to decode them, with cells missing, is a failure. Cells that a cancelled run may have left on some
// stages are the caller's to remove: by a KV operation with a later run.
PI_API int pi_cancel(struct pi_engine * engine, uint64_t run_first, uint64_t run_last);

// The other ranks' call: PI_STOPPED with the job's exit code once the head has closed, PI_TIMEOUT before that;
// PI_ERR_FAILED if this rank can no longer reach the others.
PI_API int pi_serve(struct pi_engine * engine, int32_t timeout_ms, int32_t * exit_code);
// Tell the head that this rank cannot continue; the head's pi_wait returns PI_ERR_FAILED with the message.
PI_API int pi_report_failure(struct pi_engine * engine, const char * message);

// Any thread: pi_submit, pi_wait and pi_serve of this rank return PI_ERR_FAILED with the message from now on, at once.
PI_API void pi_give_up(struct pi_engine * engine, const char * message);
// Any thread: what this rank's compute thread is at. values[0] is the run that it computes (0: none), [1] since how many
// us, [2] the last run that it has handed on, [3] how many graph nodes it has computed so far: while it grows, work progresses.
PI_API void pi_activity(struct pi_engine * engine, uint64_t values[4]);

// The message of the failure behind PI_ERR_FAILED or PI_ERR_INVALID; valid until the next call.
PI_API const char * pi_last_error(struct pi_engine * engine);

// Positions held in this rank's KV cache, from the first to the last one of each sequence, summed over the sequences;
// -1 without a stage. Only while no run is in flight.
PI_API int32_t       pi_kv_positions(struct pi_engine * engine);
// What this rank has in memory of devices. Only while no run is in flight.
PI_API void          pi_engine_device_bytes(struct pi_engine * engine, struct pi_device_bytes * bytes);
// The logits of the last wanted row, [n_vocab] float32; NULL unless this rank holds the last stage. Only while no run
// is in flight.
PI_API const float * pi_last_logits(struct pi_engine * engine);

// End the job with this exit code (the head tells all ranks), stop the threads, free everything. NULL is fine.
PI_API void pi_engine_close(struct pi_engine * engine, int32_t exit_code);

#ifdef __cplusplus
}
#endif

#endif // PIPEINFER_H
