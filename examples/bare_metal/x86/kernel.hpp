// SPDX-License-Identifier: BSL-1.0
// What the kernels for SVM and for VMX have in common: the guests, and how they are run.
#pragma once

#include <cstdint>
#include <new>
#include <type_traits>

#include <ptebits/formats/shadow.hpp>

#include "../guest.hpp"
#include "../output.hpp"
#include "../scenario.hpp"
#include "../two_cpus.hpp"
#include "platform.hpp"

/// Runs guests by all formats of the second stage that the CPU has and this kernel knows.
void run_second_stages(const options& wanted);

/// A guest's own format: PAE, or 4 or 5 levels in long mode.
template <unsigned Levels>
inline constexpr auto guest_format = ptebits::shadow<ptebits::shadow_features{
    .levels = Levels, .physical_bits = physical_bits, .gigabyte_pages = false, .global_pages = false}>;
extern const guest_tables pae, long_mode_4, long_mode_5;

inline const script_program script_of_64_bits{
    script64, script64_end, script64_at_script, script64_at_read, script64_at_write, script64_at_modify, 8};
inline const script_program script_of_32_bits{
    script32, script32_end, script32_at_script, script32_at_read, script32_at_write, script32_at_modify, 4};

/// PAE over EPT: the top table's entries are in registers.
[[nodiscard]] inline ptebits::pdpte_registers pdptes_at(std::uint64_t root) noexcept
{
    ptebits::pdpte_registers held;
    for (unsigned i = 0; i < 4; ++i) held.entries[i] = *guest_table_pool{}(root + 8 * i);
    return held;
}

/// All guests in turn over one format. `RootOfPae`: what walks of PAE begin with.
template <class Machine, auto Host, auto RootOfPae>
void run_guests(const char* what)
{
    const auto run = [&](const auto& guest, bool with_pages) {
        print(Machine::name, ", ", what, "; a guest in ", guest.tables.name, "\n");
        auto& mmu = new_mmu<Host>();
        using one = scenario<Machine, std::remove_reference_t<decltype(mmu)>>;
        alignas(one) static unsigned char room[sizeof(one)];
        (new (room) one(mmu, guest))->run_all(with_pages);
    };
    run(guest_over<guest_format<4>, Host>::over(long_mode_4), true);
    if (machine::has_la57()) run(guest_over<guest_format<5>, Host>::over(long_mode_5), false);
    run(guest_over<guest_format<3>, Host, RootOfPae>::over(pae), false);
}
