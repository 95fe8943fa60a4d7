// Memory of the running model: one reservation for keys and values, touched page by page; activations grown on demand.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

#include <sys/mman.h>

namespace catena {

// Zeroed memory that costs nothing until it is touched.
class Reserved {
  public:
    explicit Reserved(size_t bytes) : bytes_(bytes) {
        at_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at_ == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_NOHUGEPAGE
        madvise(at_, bytes, MADV_NOHUGEPAGE);  // 2 MB pages would fill every sequence's share at its first token
#endif
    }
    ~Reserved() { munmap(at_, bytes_); }
    Reserved(const Reserved&) = delete;
    Reserved& operator=(const Reserved&) = delete;
    char* at(size_t offset) const { return (char*)at_ + offset; }

  private:
    void* at_;
    size_t bytes_;
};

// An array that grows and never shrinks; growing drops what it held.
template <class T>
class Growing {
  public:
    ~Growing() { std::free(at_); }
    T* get(size_t count) {
        if (count > size_) {
            std::free(at_);
            size_ = count;
            at_ = (T*)std::aligned_alloc(64, (count * sizeof(T) + 127) / 64 * 64);
            if (!at_) throw std::bad_alloc();
        }
        return at_;
    }
    T* at() const { return at_; }

  private:
    T* at_ = nullptr;
    size_t size_ = 0;
};

}  // namespace catena
