#pragma once

#include "mpi_calls.h"
#include "wire.h"

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

enum control_kind : int32_t {
    CONTROL_CANCEL  = 1, // head -> stage: give up the runs [run_first, run_last]
    CONTROL_FAILURE = 2, // any rank -> head: this rank cannot continue; text says why
    CONTROL_STOP    = 3, // head -> all: the job ends with exit_code
};

// Out-of-band messages have a communicator of their own: on the one of the runs, a cancel could never overtake a run.
struct control_message {
    int32_t  kind      = 0; // control_kind
    int32_t  exit_code = 0;
    int32_t  source    = 0; // the sender's rank
    uint64_t run_first = 0;
    uint64_t run_last  = 0;
    uint64_t sent_us   = 0; // sending host's monotonic clock
    char     text[472] = {};
};

struct comm_params {
    uint64_t data;          // communicators
    uint64_t control;
    int      rank;          // of this process
    int      data_source;   // the one rank that sends us runs or results
    size_t   max_message;   // bytes
    bool     has_own_cores; // as many as compute threads: the comm thread may spin on them while they are idle
    uint64_t pause_us;      // between polls; 0: as short as is worth its cost
};

// The comm thread of a process: makes all MPI calls from start to end. Sends are handed to it; what arrives it hands
// to the handlers, on its own thread.
class comm {
  public:
    using data_handler    = std::function<void(const uint8_t * data, size_t size)>;
    using control_handler = std::function<void(const control_message & message)>;
    using failure_handler = std::function<void(const std::string & why)>;

    comm(const comm_params & params, std::unique_ptr<mpi_calls> mpi, data_handler on_data, control_handler on_control,
         failure_handler on_failure);
    ~comm();

    // From here on the handlers are called.
    void start();
    // Sends what is left, for at most a second, and stops the thread; what is handed over later is not sent.
    void stop();

    void send_data(int dest, wire_buffer buffer);
    void send_control(int dest, control_message message);

    // A hint: while this process computes, the comm thread polls less often and leaves it the core.
    void set_computing(bool computing) { computing_.store(computing, std::memory_order_relaxed); }

  private:
    struct outgoing {
        uint64_t    comm;
        int         dest;
        wire_buffer buffer;
        mpi_request request;
    };

    void loop();
    void enqueue(outgoing message);
    bool start_sends();
    bool finish_sends();
    bool poll_data();
    bool poll_control();
    void post_data();
    void post_control();
    void rest();
    bool is_over();
    void retire();

    const comm_params                params_;
    const std::unique_ptr<mpi_calls> mpi_;
    const data_handler               on_data_;
    const control_handler            on_control_;
    const failure_handler            on_failure_;

    // handed over by other threads
    std::mutex              mutex_;
    std::condition_variable wake_;
    std::deque<outgoing>    outbox_;
    bool                    stopping_    = false;
    uint64_t                deadline_us_ = 0;
    std::atomic<bool>       computing_{ false };

    // the comm thread's own
    std::list<outgoing>              sends_;
    wire_buffer                      incoming_;
    std::unique_ptr<control_message> incoming_control_ = std::make_unique<control_message>();
    mpi_request                      data_request_;
    mpi_request                      control_request_;
    uint64_t                         active_us_ = 0; // when something last happened

    std::thread thread_;
};
