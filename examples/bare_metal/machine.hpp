// SPDX-License-Identifier: BSL-1.0
// What each machine's platform.hpp and the steps have in common.
#pragma once

#include <cstdint>

/// What a guest's programs have in registers; guest.S says in which. In the order that the world switch uses.
struct guest_registers {
    std::uint64_t a;    ///< the address of the page in use
    std::uint64_t b;    ///< script: its next word; storm: the first page
    std::uint64_t c;    ///< storm: the number of pages - 1
    std::uint64_t d;    ///< script: its own begin; storm: random
    std::uint64_t s;    ///< storm: the words shared with the host
    std::uint64_t h;    ///< how to end: Machine::ends_by
    std::uint64_t sum;  ///< script: of what was read; storm: of the writes
    std::uint64_t pc;
};

/// How a script uses a page.
enum class use : unsigned { read = 1, write, fetch, modify };

/// What emulators do that no manual says. Each is counted by itself.
enum class deviation : unsigned {
    locked_access_reads_first,  ///< QEMU with one CPU: an atomic read-modify-write to an absent page is told as a read
    reserved_not_present,       ///< QEMU, x86: P is clear where RSV is set
    table_access_not_read,      ///< Bochs: an access to a guest's table under EPT with A and D is told as a write only
    flags_through_read_only,    ///< Bochs without EPT's A and D; QEMU, RISC-V: the guest's A and D are set through an
                                ///< entry that may not be written
    accessed_in_pdpte,          ///< QEMU: A is set in PAE's top entries, which have none
    locked_access_judged_as_read,  ///< QEMU 10, RISC-V: the same, but told as a write
    table_access_of_a_load,        ///< QEMU 7.2, RISC-V: a refused access to a guest's table is told as of a load
    none,
};
inline constexpr unsigned deviations = static_cast<unsigned>(deviation::none);
inline constexpr const char* deviation_names[] = {"a locked access told as a read",
                                                  "RSV without P",
                                                  "an access to a guest's table told as a write only",
                                                  "the guest's A and D set through a read-only entry",
                                                  "A set in a PDPTE",
                                                  "a locked access judged as a read",
                                                  "an access to a guest's table told as a load's"};
static_assert(sizeof deviation_names / sizeof *deviation_names == deviations);
