// SPDX-License-Identifier: BSL-1.0
// Start here if you build page tables: a tree is built, used, aged, protected and taken away.
#include <cstdint>
#include <iostream>
#include <ptebits/ptebits.hpp>

using namespace ptebits;

namespace {

constexpr auto host = ept<ept_features{.physical_bits = 46}>;

// Where the tables are: eight pages of physical memory; the first is the top table.
constexpr std::uint64_t base = 0x10'0000;
alignas(4096) std::uint64_t pages[8][512];
bool used[8] = {true};

struct table_memory {
    std::uint64_t* operator()(std::uint64_t physical) const
    {
        const std::uint64_t at = physical - base;
        return at < sizeof(pages) ? &pages[at / 4096][at % 4096 / 8] : nullptr;
    }
};
struct table_allocator_here {
    static optional_address allocate(unsigned /*level*/)
    {
        for (std::uint64_t n = 0; n < 8; ++n) {
            if (!used[n]) return used[n] = true, base + n * 4096;
        }
        return {};
    }
    static void release(std::uint64_t table, unsigned /*level*/) { used[(table - base) / 4096] = false; }
};

// A hypervisor makes all CPUs forget what the list says. Here no CPU remembers anything.
void flush_all_cpus(const flush_list& list) { std::cout << "flush: " << name(list.due()) << '\n'; }

}  // namespace

int main()
{
    tree guest{host, base, table_memory{}, table_allocator_here{}};
    flush_list_of<> list;
    if (clear_root(guest) != tree_end::done) return 1;

    // The guest's first 6 Mbytes are host memory from 1 Gbyte up: three large pages.
    const tree_result mapped = map(guest, {0, 0x5f'ffff}, 0x4000'0000, {}, list);
    if (!mapped) {
        std::cerr << "map: " << name(mapped.end) << '\n';
        return 1;
    }

    // The guest writes: what the MMU does.
    const walk_result touched = walk(host, base, 0x20'0123, {.what = operation::write}, {}, table_memory{});

    // Which pages were used? Afterwards all are old.
    std::uint64_t young_bytes = 0;
    static_cast<void>(
        age_range(host, base, {}, table_memory{}, [&](auto, std::uint64_t size) { young_bytes += size; }));

    // No more writes to one page: the large page around it is split.
    const tree_result guarded = protect(guest, {0x1000, 0x1fff}, {.write = false}, list, {.ends = range_end::split});

    // The second large page goes. Was it written? Its entry tells, as it was last.
    std::uint64_t written_bytes = 0;
    const tree_result taken = unmap(guest, {0x20'0000, 0x3f'ffff}, list, {}, [&](const taken_page& page) {
        if (dirty(page.entry, host)) written_bytes += std::uint64_t{1} << page.page_shift;
    });

    flush_all_cpus(list);
    flushed(guest, list);  // now what was taken away may be used for something else

    std::cout << mapped.pages << " pages mapped, " << young_bytes << " bytes used, " << guarded.pages << " protected, "
              << taken.bytes << " taken away, " << written_bytes << " of them written\n";
    return touched && mapped.pages == 3 && young_bytes == 0x20'0000 && guarded && taken && written_bytes == 0x20'0000
               ? 0
               : 1;
}
