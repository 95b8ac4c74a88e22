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

// Where tables come from: one page after the other.
struct table_source {
    std::uint64_t next;

    optional_address allocate(unsigned /*level*/) { return next += 4096; }
    static void release(std::uint64_t /*table*/, unsigned /*level*/) {}
};

struct outcome {
    std::string_view what;
    std::uint64_t value;  // the physical address, or the code that hardware reports

    bool operator==(const outcome&) const = default;
};

// One access of the guest in user mode.
outcome access_memory(machine& m, operation what, std::uint64_t address)
{
    const memory_access a{.what = what, .user = true};
    const auto r = nested_walk(m.guest, m.guest_root, m.host, m.host_root, address, a, m.cpu, m.memory,
                               update_flags::yes, plain_access{});
    if (r) return {"reaches", r.address()};
    const reported_code code = fault_code(r, a, m.cpu, m.guest, m.host);
    return {r.where == dimension::guest ? "#PF" : "#NPF", code.value};
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
    const auto host_memory = [&m](std::uint64_t physical) { return m.memory(physical); };
    const auto guest_memory = [&m](std::uint64_t physical) { return m.memory(0x20'0000 + physical); };
    tree host_pages{m.host, m.host_root, host_memory, table_source{m.host_root}};
    tree guest_pages{m.guest, m.guest_root, guest_memory, table_source{m.guest_root}};
    flush_list_of<> list;  // what a TLB would have to forget: this machine has none
    if (!map(host_pages, {0, 0x1f'ffff}, 0x20'0000, {}, list)) return 1;
    if (!map(guest_pages, {0x40'0000, 0x40'0fff}, 0x9000, {.write = false}, list)) return 1;

    const outcome load = access_memory(m, operation::read, 0x40'0123);
    const outcome store = access_memory(m, operation::write, 0x40'0123);
    if (!unmap(host_pages, {0, 0x1f'ffff}, list)) return 1;  // the host takes its page away
    const outcome lost = access_memory(m, operation::read, 0x40'0123);

    for (const outcome& o : {load, store, lost}) std::cout << o.what << ' ' << std::hex << o.value << '\n';
    // Present, write, user; and a nested fault, at the guest's table: a user write to it.
    return load == outcome{"reaches", 0x20'9123} && store == outcome{"#PF", 7} && lost == outcome{"#NPF", 0x2'0000'0006}
               ? 0
               : 1;
}
