// SPDX-License-Identifier: BSL-1.0
// Walks over whatever memory, root, address and features come: no read outside the memory
// that was given, no end but those of fault_kind, no endless walk. For sanitizers.
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "input.hpp"
#include "memory.hpp"

using namespace ptebits;
using namespace fuzz;

namespace {

using asked = ptebits::memory_access;

/// As kernels read slots, without atomics that a fuzzer gains nothing from.
constexpr plain_access plainly{};

template <class Format>
void look_at(const walk_result& r, const Format& format)
{
    require(r.steps <= max_levels);
    require(r.fault <= fault_kind::memory_absent);
    require(!r || (r.steps != 0 && (r.address >> max_physical_bits) == 0));
    for (unsigned i = 0; i < r.steps; ++i) require(r.level_of(i) >= 1 && r.level_of(i) <= format->shape().levels);
}

struct question {
    std::uint64_t root;
    std::uint64_t address;
    asked what;
    cpu_controls cpu;
};

template <class Format>
walk_result try_one(const Format& format, memory& m, const question& q)
{
    m.asked_for = 0;
    const walk_result looked = walk(format, q.root, q.address, q.what, q.cpu, m, update_flags::no, plainly);
    require(m.asked_for <= max_levels);
    look_at(looked, format);
    static_cast<void>(fault_code(looked, q.what, q.cpu, format));
    const std::vector<std::uint64_t> before = m.words;
    const walk_result walked = walk(format, q.root, q.address, q.what, q.cpu, m, update_flags::yes, plainly);
    look_at(walked, format);
    if (!walked) require(m.words == before || looked);
    m.words = before;
    return looked;
}

template <class Guest, class Host>
void try_nested(const Guest& guest, const Host& host, memory& m, const question& q, std::uint64_t host_root)
{
    const std::vector<std::uint64_t> before = m.words;
    for (const update_flags update : {update_flags::no, update_flags::yes}) {
        m.asked_for = 0;
        const nested_result<asked> r =
            nested_walk(guest, q.root, host, host_root, q.address, q.what, q.cpu, m, update, plainly);
        if (r.where == dimension::host) look_at(r.host, host);
        require(r.guest.steps <= max_levels);
        if (update == update_flags::no) require(m.words == before);
    }
    m.words = before;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    input in(data, size);
    const unsigned which = in.byte();
    const shadow_features ordinary = shadow_from(in);
    const npt_features nested = npt_from(in);
    const ept_features extended = ept_from(in);
    question q;
    q.root = in.flag() ? in.number(8) : base + in.byte() % pages * 0x1000 + in.byte() % 2 * std::uint64_t{0x20};
    const std::uint64_t host_root = in.flag() ? in.number(8) : base + in.byte() % pages * 0x1000;
    q.address = in.number(8);
    if (in.flag()) q.address = static_cast<std::uint64_t>(static_cast<std::int64_t>(q.address << 16) >> 16);
    const unsigned access_bits = in.byte();
    q.what = {.what = static_cast<operation>(access_bits & 3),
              .user = (access_bits & 4) != 0,
              .implicit = (access_bits & 8) != 0,
              .guest_table = (access_bits & 16) != 0,
              .linear = (access_bits & 32) != 0};
    const unsigned control_bits = in.byte();
    q.cpu = {.write_protect = (control_bits & 1) != 0,
             .smep = (control_bits & 2) != 0,
             .smap = (control_bits & 4) != 0,
             .alignment_check = (control_bits & 8) != 0,
             .pkru = static_cast<std::uint32_t>(in.number(4)),
             .pkrs = static_cast<std::uint32_t>(in.number(4))};
    // Roots as the CPU has them: aligned to the entries of the top table.
    q.root &= ~std::uint64_t{31};
    const std::uint64_t aligned_host_root = host_root & ~std::uint64_t{31};
    memory m(in);

    switch (which % 8) {
    case 0:
        try_one(format_for(ordinary), m, q);
        break;
    case 1:
        try_one(format_for(nested), m, q);
        break;
    case 2:
        try_one(format_for(extended), m, q);
        break;
    case 3: {
        constexpr auto format = shadow<shadow_features{.physical_bits = 40, .user_keys = true}>;
        require(same(try_one(format, m, q), try_one(format_for(format->features()), m, q)));
        break;
    }
    case 4: {
        constexpr auto format =
            ept<ept_features{.physical_bits = 40, .execute_only = false, .mode_based_execute = true}>;
        require(same(try_one(format, m, q), try_one(format_for(format->features()), m, q)));
        break;
    }
    case 5:
        try_nested(format_for(ordinary), format_for(extended), m, q, aligned_host_root);
        break;
    case 6:
        try_nested(format_for(ordinary), format_for(nested), m, q, aligned_host_root);
        break;
    default:
        try_nested(unpaged{}, format_for(extended), m, q, aligned_host_root);
        break;
    }
    return 0;
}
