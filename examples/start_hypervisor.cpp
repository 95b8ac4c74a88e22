// SPDX-License-Identifier: BSL-1.0
// start_hypervisor: one table of guest pages, aged and harvested on a CPU with EPT's
// accessed and dirty bits, and on one without. walk() plays the guest.
#include <cstddef>
#include <cstdint>

#include <ptebits/ptebits.hpp>

using namespace ptebits;

// The two CPUs. On the second, ageing saves the rights of an entry in its bits 54 and 56.
constexpr auto with_flags = ept<ept_features{.physical_bits = 46, .accessed_dirty = true}>;
constexpr auto without_flags = ept<ept_features{.physical_bits = 46, .accessed_dirty = false}>;
constexpr auto tracking = track_accesses<54>(without_flags);

namespace {

// Four tables at physical addresses from 0x1000 up, the top one first.
constexpr std::uint64_t root = 0x1000;
alignas(4096) std::uint64_t page_tables[4][512];
auto& slots = page_tables[3];

// The slot at a physical address, null where there is none.
std::uint64_t* memory(std::uint64_t physical)
{
    if (physical < root || physical >= root + sizeof(page_tables)) return nullptr;
    return &page_tables[(physical - root) / 4096][physical % 4096 / 8];
}

template <class Format>
void map_all(const Format& format, permissions grant)
{
    for (unsigned level = 4; level > 1; --level) {
        const std::uint64_t below = root + std::uint64_t{5 - level} * 4096;
        page_tables[4 - level][0] = encode(kind::table, level, below, {}, format).entry;
    }
    for (std::size_t page = 0; page < 512; ++page) {
        slots[page] = encode(kind::leaf, 1, 0x10'0000 + page * 4096, grant, format, format->memory_type(6)).entry;
    }
}

slot_bitmap<512> write_log;

// A fault of the guest, on the CPU without flags.
void handle_fault(std::size_t page, bool writes)
{
    restore(slots[page], tracking);  // read and execute are back, the page is young
    if (!writes) return;
    update(slots[page], [](std::uint64_t entry) {  // only if the page is still mapped
        return present(entry, without_flags) ? entry | without_flags->write : entry;
    });
    write_log.set(page);
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
    map_all(with_flags, {.write = true});
    guest(with_flags, operation::read, 5);
    guest(with_flags, operation::write, 7);

    const slot_bitmap<512> young = age_table(slots, with_flags);
    const slot_bitmap<512> written = harvest_dirty(slots, with_flags);
    if (written.any()) flush_tlbs();
    return young == just(5U, 7U) && written == just(7U);
}

bool on_a_cpu_without()
{
    map_all(without_flags, {.write = false});  // so that the first write faults, and is logged
    age_table(slots, tracking);                // from here on each first use faults
    flush_tlbs();
    guest(without_flags, operation::read, 5);
    guest(without_flags, operation::write, 7);

    const slot_bitmap<512> young = age_table(slots, tracking);
    slot_bitmap<512> written = write_log;  // first the log, then the entries
    write_log = {};
    written |= harvest_dirty(slots, without_flags);
    if (young.any() || written.any()) flush_tlbs();
    return young == just(5U, 7U) && written == just(7U);
}

}  // namespace

int main() { return on_a_cpu_with_flags() && on_a_cpu_without() ? 0 : 1; }
