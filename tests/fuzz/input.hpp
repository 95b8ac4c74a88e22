// SPDX-License-Identifier: BSL-1.0
// What the fuzz targets share: reading an input as numbers and features, and the check that aborts.
//     clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -I include -I examples tests/fuzz/NAME.cpp
// Without libFuzzer, with tests/fuzz/main.cpp in its place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <ptebits/ptebits.hpp>
#include <ptebits/x86.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace fuzz {

/// Stops at a finding, and says where: an optimised stack does not.
inline void require(bool holds, const char* file = __builtin_FILE(), int line = __builtin_LINE())
{
    if (holds) return;
    std::fprintf(stderr, "%s:%d: does not hold\n", file, line);
    std::abort();
}

/// Reads numbers from the input; zeros behind its end.
class input {
public:
    input(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

    std::uint64_t number(std::size_t bytes)
    {
        std::uint64_t value = 0;
        const std::size_t taken = bytes < size_ ? bytes : size_;
        if (taken != 0) std::memcpy(&value, data_, taken);
        data_ += taken;
        size_ -= taken;
        return value;
    }
    unsigned byte() { return static_cast<unsigned>(number(1)); }
    bool flag() { return (number(1) & 1) != 0; }
    [[nodiscard]] bool empty() const { return size_ == 0; }

private:
    const std::uint8_t* data_;
    std::size_t size_;
};

/// Any features, those that contradict each other too.
inline ptebits::shadow_features shadow_from(input& in)
{
    const auto switches = static_cast<unsigned>(in.number(2));
    const auto on = [switches](unsigned index) { return (switches >> index & 1) != 0; };
    ptebits::shadow_features f;
    f.levels = in.byte() % 7;  // 0, 1 and 6 are wrong
    f.physical_bits = 30 + in.byte() % 24;
    f.execute_disable = on(0);
    f.gigabyte_pages = on(1);
    f.large_pages = f.levels != 2 || on(2);
    f.pse36 = on(3);
    f.global_pages = on(4);
    f.user_keys = on(5);
    f.hlat = on(6);
    f.reserved_bit_8 = on(7);
    if (on(8)) f.encryption_bit = in.byte();
    if (on(10)) f.shared_bit = in.byte();
    if (on(11)) {
        const unsigned high = in.byte();
        f.key_id_bits = {high, in.byte()};
    }
    if (on(9)) f.memory_bits = 30 + in.byte() % 24;
    return f;
}

inline ptebits::npt_features npt_from(input& in)
{
    const ptebits::shadow_features s = shadow_from(in);
    ptebits::npt_features f;
    f.levels = s.levels;
    f.physical_bits = s.physical_bits;
    f.execute_disable = s.execute_disable;
    f.gigabyte_pages = s.gigabyte_pages;
    f.large_pages = s.large_pages;
    f.pse36 = s.pse36;
    f.reserved_bit_8 = s.reserved_bit_8;
    f.guest_mode_execute_trap = s.hlat;
    f.encryption_bit = s.encryption_bit;
    return f;
}

inline ptebits::ept_features ept_from(input& in)
{
    const auto switches = static_cast<unsigned>(in.number(2));
    const auto on = [switches](unsigned index) { return (switches >> index & 1) != 0; };
    ptebits::ept_features f;
    f.levels = 3 + in.byte() % 3;  // 3 is wrong
    f.physical_bits = 30 + in.byte() % 24;
    f.accessed_dirty = on(0);
    f.execute_only = on(1);
    f.large_pages = on(2);
    f.gigabyte_pages = on(3);
    f.mode_based_execute = on(4);
    f.verify_guest_paging = on(5);
    f.paging_write = on(6);
    f.supervisor_shadow_stack = on(7);
    f.sub_page_write = on(8);
    f.suppress_ve = on(9);
    if (on(10)) f.software_accessed = in.byte();
    if (on(11)) f.memory_bits = 30 + in.byte() % 24;
    return f;
}

/// Calls a function with a format of any kind and features, known at run time.
template <class Function>
void with_format_from(input& in, Function call)
{
    switch (in.byte() % 3) {
    case 0:
        return call(ptebits::format_for(shadow_from(in)));
    case 1:
        return call(ptebits::format_for(npt_from(in)));
    default:
        return call(ptebits::format_for(ept_from(in)));
    }
}

}  // namespace fuzz
