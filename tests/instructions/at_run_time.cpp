// What check.cmake counts of formats that are known at run time or at boot. In a file of its own, with tables of its
// own, so that these functions do not change what compilers make of those of measured.cpp.
#include "at_run_time.hpp"

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <ptebits/ptebits.hpp>

using namespace ptebits;

namespace {

/// Five tables, the top one first; the last holds one page, its table entry 1 is absent.
alignas(4096) std::uint64_t tables_of_test[5 * 512];

struct whole_memory {
    std::uint64_t* operator()(std::uint64_t physical) const { return tables_of_test + physical / 8; }
};

void fill(std::uint64_t table_bits, std::uint64_t leaf_bits)
{
    for (std::size_t n = 0; n < 3; ++n) tables_of_test[n * 512] = (n + 1) * 0x1000 | table_bits;
    tables_of_test[std::size_t{3} * 512] = 0x5000 | leaf_bits;
}

using boot_x86 = boot_format<shadow_description, shadow_features{}>;
using boot_ept = boot_format<ept_description, ept_features{}>;

runtime_format<shadow_description> x86_at_run_time;
runtime_format<ept_description> ept_at_run_time;
boot_x86 x86_at_boot;
boot_ept ept_at_boot;
walk_result reached;
bool was_young;

}  // namespace

extern "C" {

[[gnu::noinline]] void count_walk_x86_at_run_time(std::uint64_t address)
{
    reached = walk(x86_at_run_time, 0, address, {.what = operation::write, .user = true}, {}, whole_memory{});
}
[[gnu::noinline]] void count_walk_ept_at_run_time(std::uint64_t address)
{
    reached = walk(ept_at_run_time, 0, address, {.what = operation::write}, {}, whole_memory{});
}
[[gnu::noinline]] void count_walk_x86_at_boot(std::uint64_t address)
{
    reached = walk(x86_at_boot, 0, address, {.what = operation::write, .user = true}, {}, whole_memory{});
}
[[gnu::noinline]] void count_walk_ept_at_boot(std::uint64_t address)
{
    reached = walk(ept_at_boot, 0, address, {.what = operation::write}, {}, whole_memory{});
}
[[gnu::noinline]] void count_age_ept_at_boot(std::uint64_t& slot) { was_young = age(slot, ept_at_boot); }
}

int measure_at_run_time(const char* function, unsigned level, std::uint64_t address)
{
    const auto is = [&](const char* name) { return std::strcmp(function, name) == 0; };
    x86_at_run_time = format_for(shadow_features{.physical_bits = 46});
    ept_at_run_time = format_for(ept_features{.physical_bits = 46});
    x86_at_boot = boot_x86(shadow_features{.physical_bits = 46});
    ept_at_boot = boot_ept(ept_features{.physical_bits = 46});
    if (is("count_age_ept_at_boot")) {
        std::uint64_t slot = 0x5337;
        count_age_ept_at_boot(slot);
        return was_young && slot == 0x5237 ? 0 : 3;
    }
    if (std::strstr(function, "_x86_") != nullptr) {
        fill(0x27, 0x67);
    } else {
        fill(0x107, 0x337);
    }
    reached.fault = fault_kind::restart;
    if (is("count_walk_x86_at_run_time")) count_walk_x86_at_run_time(address);
    if (is("count_walk_ept_at_run_time")) count_walk_ept_at_run_time(address);
    if (is("count_walk_x86_at_boot")) count_walk_x86_at_boot(address);
    if (is("count_walk_ept_at_boot")) count_walk_ept_at_boot(address);
    return reached.fault == (level == 0 ? fault_kind::none : fault_kind::not_present) ? 0 : 3;
}
