// SPDX-License-Identifier: BSL-1.0
// start_simulator: accesses of a guest on a simulated machine with AMD's nested paging,
// where the CPU's features come from a configuration.
#include <cstdint>
#include <iostream>
#include <string_view>
#include <vector>

#include <ptebits/ptebits.hpp>

using namespace ptebits;

namespace {

// The machine's memory: 4 Mbytes. It is asked for the slot at a physical address.
struct machine_memory {
    std::vector<std::uint64_t> words = std::vector<std::uint64_t>(0x40'0000 / 8);

    std::uint64_t* operator()(std::uint64_t physical)
    {
        return physical / 8 < words.size() ? &words[physical / 8] : nullptr;
    }
};

struct machine {
    runtime_format<shadow_description> guest;
    runtime_format<npt_description> host;
    cpu_controls cpu;
    std::uint64_t guest_root = 0x1000;  // CR3, guest-physical
    std::uint64_t host_root = 0x1000;   // nCR3, physical
    machine_memory memory;
};

// Writes the entries that lead to one page: one table a level, one after the other from
// `root` up. `base` is the physical address of what these tables call 0.
template <class Format>
void map(machine& m, const Format& format, std::uint64_t base, std::uint64_t root, std::uint64_t address,
         std::uint64_t page, unsigned page_level, permissions grant)
{
    for (unsigned level = format->shape().levels;; --level, root += 4096) {
        std::uint64_t& slot = *m.memory(format->shape().slot_address(base + root, address, level));
        if (level == page_level) {
            slot = encode(kind::leaf, level, page, grant, format).entry;
            return;
        }
        slot = encode(kind::table, level, root + 4096, {}, format).entry;
    }
}

struct outcome {
    std::string_view what;
    std::uint64_t value;  // the physical address, or the code that hardware reports

    bool operator==(const outcome&) const = default;
};

// One access of the guest in user mode.
outcome access_memory(machine& m, operation what, std::uint64_t address)
{
    const auto r = nested_walk(m.guest, m.guest_root, m.host, m.host_root, address, {.what = what, .user = true}, m.cpu,
                               m.memory, update_flags::yes, plain_access{});
    if (r) return {"reaches", r.address()};
    if (r.where == dimension::guest) return {"#PF", fault_code(r.guest, {.what = what, .user = true}, m.cpu, m.guest)};
    return {"#NPF", fault_code(r.host, r.host_access, {}, m.host)};
}

}  // namespace

int main()
{
    // As read from a configuration. A wrong one is told, and makes no entry present.
    const unsigned physical_bits = 40;
    if (format_for(npt_features{.physical_bits = 60})->wrong().what != defect::physical_bits) return 1;

    machine m{.guest = format_for(shadow_features{.physical_bits = physical_bits}),
              .host = format_for(npt_features{.physical_bits = physical_bits}),
              .cpu = {.smep = true},
              .memory = {}};
    if (m.guest->wrong().what != defect::none || m.host->wrong().what != defect::none) return 1;

    // The host gives the guest 2 Mbytes, from physical 0x20'0000 up; the guest maps a page.
    map(m, m.host, 0, m.host_root, 0, 0x20'0000, 2, {});
    map(m, m.guest, 0x20'0000, m.guest_root, 0x40'0000, 0x9000, 1, {.write = false});

    const outcome load = access_memory(m, operation::read, 0x40'0123);
    const outcome store = access_memory(m, operation::write, 0x40'0123);
    *m.memory(m.host_root + 0x2000) = 0;  // the host takes its page away
    const outcome lost = access_memory(m, operation::read, 0x40'0123);

    for (const outcome& o : {load, store, lost}) std::cout << o.what << ' ' << std::hex << o.value << '\n';
    // Present, write, user; and a nested fault, at the guest's table: a user write to it.
    return load == outcome{"reaches", 0x20'9123} && store == outcome{"#PF", 7} && lost == outcome{"#NPF", 0x2'0000'0006}
               ? 0
               : 1;
}
