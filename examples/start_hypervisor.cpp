// SPDX-License-Identifier: BSL-1.0
// start_hypervisor: one table of guest pages, aged and harvested on a CPU with EPT's
// accessed and dirty bits, and on one without; and the choice between them. walk() plays the guest.
#include <cstddef>
#include <cstdint>

#include <ptebits/ptebits.hpp>

using namespace ptebits;

// The two CPUs. On the second, ageing saves the rights of an entry in its bits 54 and 56, and
// records in bit 55 that the page may have been written.
constexpr auto with_flags = ept<ept_features{.physical_bits = 46, .accessed_dirty = true}>;
constexpr auto without_flags = ept<ept_features{.physical_bits = 46, .accessed_dirty = false}>;
constexpr auto tracking = track_accesses<54>(without_flags);

namespace {

// One table a level, at physical addresses from 0x1000 up, that of the smallest pages first.
constexpr std::uint64_t base = 0x1000;
constexpr std::uint64_t root = 0x4000;
alignas(4096) std::uint64_t page_tables[4][512];
auto& slots = page_tables[0];

// The slot at a physical address, null where there is none.
std::uint64_t* memory(std::uint64_t physical)
{
    if (physical < base || physical >= base + sizeof(page_tables)) return nullptr;
    return &page_tables[(physical - base) / 4096][physical % 4096 / 8];
}

// Where tables come from: yours takes any free page.
struct table_source {
    static optional_address allocate(unsigned level) { return base + std::uint64_t{level - 1} * 4096; }
    static void release(std::uint64_t /*table*/, unsigned /*level*/) {}
};

// The guest's first 2 Mbytes are host memory from 1 Mbyte up.
template <class Format>
bool map_all(const Format& format, permissions grant)
{
    tree guest_pages{format, root, memory, table_source{}};
    flush_list_of<> list;
    return clear_root(guest_pages) == tree_end::done && map(guest_pages, {0, 0x1f'ffff}, 0x10'0000, grant, list);
}

// A fault of the guest, on the CPU without flags.
void handle_fault(std::size_t page, bool writes)
{
    restore(slots[page], tracking);  // read and execute are back, the page is young
    if (!writes) return;
    update(slots[page], [](std::uint64_t entry) {  // only if the page is still mapped
        return translates(entry, without_flags) ? entry | without_flags->write : entry;
    });
}

void flush_tlbs() {}  // yours

template <class Format>
void guest(const Format& format, operation what, std::size_t page)
{
    const walk_result r = walk(format, root, page * 4096, {.what = what}, {}, memory);
    if (!r) handle_fault(page, what == operation::write);
}

template <class... Pages>
slot_bitmap<512> just(Pages... pages)
{
    slot_bitmap<512> map;
    (map.set(pages), ...);
    return map;
}

bool on_a_cpu_with_flags()
{
    if (!map_all(with_flags, {.write = true})) return false;
    guest(with_flags, operation::read, 5);
    guest(with_flags, operation::write, 7);

    const slot_bitmap<512> young = age_table(slots, with_flags);
    const slot_bitmap<512> written = harvest_dirty(slots, with_flags);
    if (written.any()) flush_tlbs();
    return young == just(5U, 7U) && written == just(7U);
}

bool on_a_cpu_without()
{
    if (!map_all(without_flags, {.write = false})) return false;  // so that the first write faults
    age_table(slots, tracking);                                   // from here on each first use faults
    flush_tlbs();
    guest(without_flags, operation::read, 5);
    guest(without_flags, operation::write, 7);

    const slot_bitmap<512> young = age_table(slots, tracking);
    const slot_bitmap<512> written = harvest_dirty(slots, tracking);  // tracked entries, too
    if (young.any() || written.any()) flush_tlbs();
    return young == just(5U, 7U) && written == just(7U);
}

// What the rest of the hypervisor calls: compiled for each CPU, with all masks as constants.
struct mmu_functions {
    slot_bitmap<512> (*age)();
    slot_bitmap<512> (*harvest)();
};

template <const auto& By>
constexpr mmu_functions functions_of{
    .age = [] { return age_table(slots, By); },
    .harvest = [] { return harvest_dirty(slots, By); },
};

// Once, at start-up: bit 21 of the MSR IA32_VMX_EPT_VPID_CAP says that the CPU has the flags.
const mmu_functions& functions_for(std::uint64_t capabilities)
{
    return (capabilities >> 21 & 1) != 0 ? functions_of<with_flags> : functions_of<tracking>;
}

template <class Format>
bool chosen_at_start_up(const Format& format, std::uint64_t capabilities)
{
    if (!map_all(format, {.write = format->dirty.exists()})) return false;
    const mmu_functions& mmu = functions_for(capabilities);
    mmu.age();
    guest(format, operation::write, 9);
    return mmu.age() == just(9U) && mmu.harvest() == just(9U);
}

}  // namespace

int main()
{
    const bool right = on_a_cpu_with_flags() && on_a_cpu_without() && chosen_at_start_up(with_flags, 1U << 21) &&
                       chosen_at_start_up(without_flags, 0);
    return right ? 0 : 1;
}
