#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

struct pi_mpi;

// A send or receive under way. MPI may keep using its memory until it is done.
struct mpi_request {
    uint64_t handle = 0; // an MPI_Request, in its lowest bytes
};

// The few functions of MPI that the comm thread calls. One libpipeinfer serves every MPI: it has been compiled with no
// mpi.h and is linked with none. An MPI_Comm, MPI_Datatype or MPI_Request is an int or a pointer, depending on the MPI; as a
// value it travels in the lowest bytes of an uint64_t. Errors are exceptions.
class mpi_calls {
  public:
    virtual ~mpi_calls() = default;

    virtual mpi_request send(const void * data, size_t size, int dest, uint64_t comm) = 0;
    virtual mpi_request receive(void * data, size_t size, int source, uint64_t comm)  = 0;
    // True once it is done; then the request is null, and *size (if it is given) the bytes that were received.
    virtual bool        test(mpi_request & request, size_t * size = nullptr)          = 0;
    // It will be done soon, sent or received or not.
    virtual void        cancel(mpi_request & request)                                 = 0;

    int         any_source() const { return any_source_; }
    mpi_request null_request() const { return null_; }
    bool        is_null(const mpi_request & request) const { return request.handle == null_.handle; }

  protected:
    explicit mpi_calls(const pi_mpi & mpi);

    const int         any_source_;
    const mpi_request null_;
};

// Looks the functions up in the MPI that this process has loaded.
std::unique_ptr<mpi_calls> mpi_calls_find(const pi_mpi & mpi);
