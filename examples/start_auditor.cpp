// SPDX-License-Identifier: BSL-1.0
// start_auditor: a header's masks, and entries that it makes, held against the manual.
#include <cstdint>
#include <iostream>

#include <ptebits/ptebits.hpp>

using namespace ptebits;

// What you audit: include the header in its place.
namespace theirs {

constexpr std::uint64_t ept_accessed = 1ULL << 8;
constexpr std::uint64_t ept_dirty = 1ULL << 9;
constexpr unsigned ept_type_shift = 3;
constexpr std::uint64_t ept_address = 0x0000'3fff'ffff'f000;
constexpr std::uint64_t host_writable = 1ULL << 57;
constexpr std::uint64_t page_in_ram = 0x7 | 6 << ept_type_shift;
constexpr std::uint64_t mmio = 0x6;  // meant to be a misconfiguration
constexpr std::uint64_t being_removed = 0x5a0;

}  // namespace theirs

// The machine that it is meant for.
constexpr auto machine = ept<ept_features{.physical_bits = 46}>;

// Masks and shifts: the field of that name, no more and no less.
static_assert(machine->accessed == field_of(theirs::ept_accessed));
static_assert(machine->dirty == field_of(theirs::ept_dirty));
static_assert(machine->memory_type.shift() == theirs::ept_type_shift);
static_assert(machine->address_mask(1, kind::leaf) == theirs::ept_address);

// Bits that software takes for itself: ignored by the MMU, in every entry.
static_assert(available(machine, theirs::host_writable));

// Under other features the same bit has another meaning.
static_assert(!available(ept<ept_features{.verify_guest_paging = true}>, theirs::host_writable));
static_assert(!ept<ept_features{.accessed_dirty = false}>->accessed.exists());

// Whole entries: legal, or broken in the way that is meant.
static_assert(legal(theirs::page_in_ram, 1, machine));
static_assert(diagnose(theirs::mmio, 1, machine).broken == rule::write_without_read);

// A marker of entries that are being removed must be none that the MMU or ageing looks at.
static_assert(check_marker(theirs::being_removed, machine) == marker_error::looks_accessed);

namespace {

// Entries that are known at run time only, as from a dump: which break a rule, in words.
unsigned audit(const std::uint64_t (&dump)[3])
{
    unsigned wrong = 0;
    for (const std::uint64_t entry : dump) {
        char line[100];
        describe(entry, 1, machine, line);
        std::cout << line << '\n';
        if (!legal(entry, 1, machine)) ++wrong;
    }
    return wrong;
}

}  // namespace

int main() { return audit({0x12'3456'7037, 0x12'3456'7006, 0x8012'3456'7037}) == 2 ? 0 : 1; }
