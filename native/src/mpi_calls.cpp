#include "mpi_calls.h"

#include "pipeinfer.h"

#include <dlfcn.h>

#include <stdexcept>
#include <string>
#include <type_traits>

static constexpr int TAG         = 1;
static constexpr int MPI_SUCCESS = 0; // the standard fixes this value

static constexpr size_t STATUS_BYTES = 256; // an MPI_Status has 20 to 40
static constexpr size_t ERROR_BYTES  = 4096; // MPI_MAX_ERROR_STRING is at most 1024

namespace {

// The same functions with handles of either kind. Names and parameters are those of the MPI standard.
template <typename Handle> class mpi_of final : public mpi_calls {
  public:
    mpi_of(const pi_mpi & mpi, void * library) : mpi_calls(mpi), byte_(of_bits(mpi.byte_type)) {
        find(library, isend_, "MPI_Isend");
        find(library, irecv_, "MPI_Irecv");
        find(library, test_, "MPI_Test");
        find(library, get_count_, "MPI_Get_count");
        find(library, cancel_, "MPI_Cancel");
        find(library, error_string_, "MPI_Error_string");
    }

    mpi_request send(const void * data, size_t size, int dest, uint64_t comm) override {
        Handle request = of_bits(null_.handle);
        check(isend_(data, int(size), byte_, dest, TAG, of_bits(comm), &request), "MPI_Isend");
        return { to_bits(request) };
    }

    mpi_request receive(void * data, size_t size, int source, uint64_t comm) override {
        Handle request = of_bits(null_.handle);
        check(irecv_(data, int(size), byte_, source, TAG, of_bits(comm), &request), "MPI_Irecv");
        return { to_bits(request) };
    }

    bool test(mpi_request & request, size_t * size) override {
        alignas(std::max_align_t) unsigned char status[STATUS_BYTES];

        Handle    handle = of_bits(request.handle);
        int       done   = 0;
        const int error  = test_(&handle, &done, status);
        request.handle   = to_bits(handle);
        check(error, "MPI_Test");
        if (done && size) {
            int count = 0;
            check(get_count_(status, byte_, &count), "MPI_Get_count");
            *size = size_t(count);
        }
        return done != 0;
    }

    void cancel(mpi_request & request) override {
        Handle handle = of_bits(request.handle);
        check(cancel_(&handle), "MPI_Cancel");
        request.handle = to_bits(handle);
    }

  private:
    static Handle of_bits(uint64_t bits) {
        if constexpr (std::is_pointer_v<Handle>) {
            return reinterpret_cast<Handle>(uintptr_t(bits));
        } else {
            return Handle(bits);
        }
    }

    static uint64_t to_bits(Handle handle) {
        if constexpr (std::is_pointer_v<Handle>) {
            return uint64_t(uintptr_t(handle));
        } else {
            return uint64_t(handle);
        }
    }

    // Of a library that wraps MPI's functions (LD_PRELOAD: profilers, our tests), if there is one, as a linker would have it.
    template <typename Function> static void find(void * library, Function *& function, const char * name) {
        void * symbol = dlsym(RTLD_DEFAULT, name);
        function      = reinterpret_cast<Function *>(symbol ? symbol : dlsym(library, name));
        if (!function) {
            throw std::runtime_error(std::string("the MPI of this process has no ") + name);
        }
    }

    void check(int status, const char * what) const {
        if (status == MPI_SUCCESS) {
            return;
        }
        char text[ERROR_BYTES] = {};
        int  length            = 0;
        error_string_(status, text, &length);
        throw std::runtime_error(std::string(what) + ": " + text);
    }

    const Handle byte_;

    int (*isend_)(const void *, int, Handle, int, int, Handle, Handle *);
    int (*irecv_)(void *, int, Handle, int, int, Handle, Handle *);
    int (*test_)(Handle *, int *, void *);
    int (*get_count_)(const void *, Handle, int *);
    int (*cancel_)(Handle *);
    int (*error_string_)(int, char *, int *);
};

} // namespace

mpi_calls::mpi_calls(const pi_mpi & mpi) : any_source_(mpi.any_source), null_{ mpi.null_request } {}

std::unique_ptr<mpi_calls> mpi_calls_find(const pi_mpi & mpi) {
    void * library = dlopen(mpi.library, RTLD_LAZY | RTLD_NOLOAD); // it stays loaded, as does what it is linked with
    if (!library) {
        throw std::runtime_error(std::string("no library of this process is ") + mpi.library);
    }
    if (mpi.status_bytes < 1 || size_t(mpi.status_bytes) > STATUS_BYTES) {
        throw std::runtime_error("an MPI_Status of " + std::to_string(mpi.status_bytes) + " bytes is not supported");
    }
    switch (mpi.handle_bytes) {
        case sizeof(unsigned):
            return std::make_unique<mpi_of<unsigned>>(mpi, library);
        case sizeof(void *):
            return std::make_unique<mpi_of<void *>>(mpi, library);
        default:
            throw std::runtime_error("MPI handles of " + std::to_string(mpi.handle_bytes) + " bytes are not supported");
    }
}
