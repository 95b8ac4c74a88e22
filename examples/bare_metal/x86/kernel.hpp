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

inline constexpr hypervisor::mmu_limits limits{
    .memory_slots = 2, .slot_pages = guest_pages, .host_pages = guest_pages, .mappings = 1, .tables = 16};

/// A hypervisor's MMU, in memory that one after the other uses.
template <auto Format>
auto& new_mmu()
{
    using mmu = hypervisor::mmu<Format, limits>;
    static_assert(mmu::pool::table_bytes == page_bytes);
    alignas(page_bytes) static std::uint64_t tables[limits.tables][page_bytes / 8];
    alignas(mmu) static unsigned char room[sizeof(mmu)];
    return *new (room)
        mmu({.tables = tables[0], .tables_physical = address_of_symbol(tables), .host_physical = guest_at});
}

/// All guests in turn over one format. `registers_hold_pdptes`: of PAE, as over EPT.
template <class Machine, auto Host, bool RegistersHoldPdptes>
void run_guests(const char* what)
{
    const auto run = [&](const auto& guest, bool with_pages) {
        print(Machine::name, ", ", what, "; a guest in ", guest.tables.name, "\n");
        auto& mmu = new_mmu<Host>();
        using one = scenario<Machine, std::remove_reference_t<decltype(mmu)>>;
        alignas(one) static unsigned char room[sizeof(one)];
        (new (room) one(mmu, guest))->run_all(with_pages);
    };
    run(guest_over<guest_format<4>, Host, false>::over(long_mode_4), true);
    if (machine::has_la57()) run(guest_over<guest_format<5>, Host, false>::over(long_mode_5), false);
    run(guest_over<guest_format<3>, Host, RegistersHoldPdptes>::over(pae), false);
}
