#pragma once

#include "assertions.h"
#include "channel.h"
#include "comm.h"
#include "emulation.h"
#include "pipeinfer.h"
#include "stage.h"

#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

// One process of the pipeline: the head, a stage, or both. The comm thread brings runs, results and control messages;
// the compute thread takes the runs in order. With a single rank there is no comm thread: runs and results go through
// the same two channels.
struct pi_engine {
  public:
    // Loads the layers. Throws std::runtime_error.
    explicit pi_engine(const pi_engine_params & params);
    ~pi_engine();

    // Starts the threads, and computes a token. Throws std::runtime_error; then end_comm and end_compute are to be called.
    void start();

    pi_status submit(const pi_run & run);
    pi_status wait(int32_t timeout_ms, pi_result & result);
    pi_status nudge();
    void      cancel(uint64_t run_first, uint64_t run_last);
    pi_status serve(int32_t timeout_ms, int32_t & exit_code);
    void      fail(const std::string & why);
    void      stop(int32_t exit_code);
    // Any thread: this rank's calls return PI_ERR_FAILED from now on, for this reason.
    void      give_up(const std::string & why) { set_failure(why); }
    // Any thread: see pi_activity.
    void      activity(uint64_t values[4]) const;

    // Stops the compute thread. False if it is stuck: then this object must live on.
    bool end_compute();
    // Has sends finish, and stops the comm thread. What the compute thread may still send goes nowhere.
    void end_comm() {
        if (comm_) {
            comm_->stop();
        }
    }

    int32_t         kv_positions() const { return stage_ ? stage_->kv_positions() : -1; }
    // Of a rank without layers: zeros.
    pi_device_bytes device_bytes() const { return stage_ ? stage_->device_bytes() : pi_device_bytes{}; }
    const float *   last_logits() const { return stage_ ? stage_->last_logits() : nullptr; }

    std::string last_error; // what pi_last_error hands out

  private:
    void      compute_loop();
    void      on_assertion(const std::string & why); // on a compute thread, which does not return from it
    void      compute_runs();
    void      hand_on(run_state run);
    void      on_data(const uint8_t * data, size_t size);
    void      on_control(const control_message & message);
    void      set_failure(const std::string & why);
    // PI_ERR_FAILED, with the failure as the last error.
    pi_status failed();
    bool      is_head() const { return params_.rank == 0; }
    bool      is_last() const { return params_.rank == params_.n_ranks - 1; }

    const pi_engine_params       params_;
    std::optional<emulated_link> link_; // into this rank, of an emulated machine
    std::unique_ptr<stage>       stage_; // none on a head without layers
    uint64_t                     last_run_id_ = 0;
    run_state                    current_; // what the last pi_result points into

    channel<run_state> inbox_;   // runs whose turn is to come here
    channel<run_state> results_; // the head's
    channel<int32_t>   stops_;   // the other ranks': the exit code
    std::mutex         failure_mutex_;
    std::string        failure_;
    std::atomic<bool>  has_failed_{ false };

    // what the compute thread is at
    std::atomic<uint64_t> computing_run_{ 0 };
    std::atomic<uint64_t> computing_since_us_{ 0 };
    std::atomic<uint64_t> done_run_{ 0 };

    std::thread                 compute_thread_;
    channel<std::exception_ptr> warm_; // what came of warming up; null: all is well
    std::atomic<bool>           is_warm_{ false };
    std::atomic<bool>           is_stuck_{ false }; // a compute thread will never return
    channel<bool>               compute_over_;
    assertion_listener          listener_{ [this](const std::string & why) { on_assertion(why); } };
    std::unique_ptr<comm>       comm_; // last: it is stopped first, before what its handlers use is gone
};
