// SPDX-License-Identifier: BSL-1.0
// Whole trees in arbitrary memory: visits, mappings, ageing and harvesting of ranges, walks
// in batches and splitting of live pages read nothing outside memory, end, and agree with
// one another where two of them answer one question.
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "input.hpp"
#include "memory.hpp"

using namespace ptebits;
using namespace fuzz;

namespace {

constexpr plain_access plainly{};

struct question {
    std::uint64_t root = 0;
    std::uint64_t address = 0;
    inclusive_range range;
    memory_access what;
    std::uint64_t value = 0;  // whatever is needed besides
};

// ---- visits

/// Every table once, whatever refers to it; stopped somewhere.
template <class Format>
void try_once(const Format& format, memory& m, const question& q)
{
    // At each level the root and what an entry may refer to: the pages, and two addresses by chance.
    std::uint64_t words[64];
    const std::size_t count = q.value % 8 == 0 ? q.value / 8 % 8 : 64;
    table_set once(words, count);
    std::uint64_t left = q.value % 3 == 0 ? q.value >> 8 & 0xfff : ~std::uint64_t{0};
    std::uint64_t seen = 0;
    std::uint64_t next = 0;
    const shape& t = format->shape();
    const auto look = [&](const auto& e) {
        ++seen;
        require(e.level >= 1 && e.level <= t.levels && e.entry != 0 && *e.slot == e.entry);
        require(e.page_shift == t.page_shift(e.level) && kind_of(e.entry, e.level, format) == e.is);
        require(e.address >= next);  // an entry, then what it refers to
        next = e.address;
        return left-- == 0 ? visit_next::stop : visit_next::into;
    };
    m.limit = 100'000;
    m.asked_for = 0;
    const visit_summary s = visit(format, q.root, {}, m, look, &once, plainly);
    require(s.entered <= count || (count == 0 && s.entered <= 1));
    require(s.stopped == (left == ~std::uint64_t{0} && seen != 0 && q.value % 3 == 0));
}

// ---- ranges

struct reported {
    std::uint64_t address;
    std::uint64_t size;

    bool operator==(const reported&) const = default;
};

/// What clear_in_range does, by visit(): an operation on each leaf of the range, table entries
/// of which all lies in the range aged on the way.
template <class Format, class Operation>
std::vector<reported> by_visit(const Format& format, memory& m, const question& q, subtrees which,
                               const Operation& operation)
{
    std::vector<reported> found;
    const auto look = [&](const auto& e) {
        if (!present(e.entry, format)) return visit_next::over;
        if (e.level > 1 && !legal(e.entry, e.level, format)) return visit_next::over;
        if (e.is == kind::leaf) {
            if (operation(*e.slot)) found.push_back({e.address, std::uint64_t{1} << e.page_shift});
            return visit_next::over;
        }
        const std::uint64_t accessed = format->layout_at(e.level, kind::table).mask(role::accessed);
        if (which == subtrees::all || accessed == 0) return visit_next::into;
        if ((e.entry & accessed) == 0) return visit_next::over;
        const std::uint64_t last = e.address + ones(e.page_shift - 1, 0);
        const std::uint64_t below = format->layout_at(e.level, kind::table).address_in(e.entry);
        const bool there = m(below, std::type_identity<std::uint64_t>{}) != nullptr;
        if (there && e.address >= q.range.first && last <= q.range.last) {
            using word = std::remove_reference_t<decltype(*e.slot)>;
            *e.slot = static_cast<word>(*e.slot & ~accessed);
        }
        return visit_next::into;
    };
    visit(format, q.root, q.range, m, look, nullptr, plainly);
    return found;
}

template <class Format, class Pass, class Operation>
void try_range(const Format& format, memory& m, const question& q, subtrees which, const Pass& pass,
               const Operation& operation)
{
    const std::vector<std::uint64_t> before = m.words;
    std::vector<reported> found;
    m.limit = 3'000'000;
    m.asked_for = 0;
    const range_counts counts =
        pass([&](std::uint64_t address, std::uint64_t size) { found.push_back({address, size}); });
    require(counts.pages == found.size() && counts.tables + counts.missing == m.asked_for);
    require(counts.skipped == 0 || which == subtrees::accessed);
    const std::vector<std::uint64_t> after = std::exchange(m.words, before);
    require(by_visit(format, m, q, which, operation) == found);
    require(m.words == after);
    m.words = before;
}

template <class Format>
void try_ranges(const Format& format, memory& m, const question& q)
{
    if (format->accessed.exists()) {
        const subtrees which = q.value % 2 == 0 ? subtrees::all : subtrees::accessed;
        try_range(
            format, m, q, which,
            [&](const auto& report) { return age_range(format, q.root, q.range, m, report, which, plainly); },
            [&](auto& slot) { return age(slot, format, plainly); });
    }
    try_range(
        format, m, q, subtrees::all,
        [&](const auto& report) { return harvest_range(format, q.root, q.range, m, report, plainly); },
        [&](auto& slot) { return harvest_dirty(slot, format, plainly); });
}

/// A table of pages that follow each other, one bit different a few pages above the address: by
/// chance there would be none.
template <class Format>
void lay_out_run(const Format& format, memory& m, const question& q)
{
    const auto lay_out = [&]<class Word>(std::type_identity<Word> size) {
        Word* const table = m(base + q.value % pages * 0x1000, size);
        const unsigned shift = format->shape().page_shift(1 + (q.value >> 3) % 2);
        constexpr std::uint64_t count = 4096 / sizeof(Word);
        const std::uint64_t different = (q.address >> shift) % count + 1 + (q.value >> 5) % 8;
        const std::uint64_t index = (q.value >> 8) % 4 == 0 ? q.value >> 10 : (q.value >> 10) % 8;  // mostly flags
        const Word changed = static_cast<Word>(std::uint64_t{1} << index % 64);
        const Word first = table[0];
        for (std::uint64_t i = 1; i < count; ++i) {
            const std::uint64_t next = first + (i << shift);
            table[i] = static_cast<Word>(i < different ? next : next ^ changed);
        }
    };
    if (format->shape().entry_bits == 64) {
        lay_out(std::type_identity<std::uint64_t>{});
    } else {
        lay_out(std::type_identity<std::uint32_t>{});
    }
}

/// Mappings of a range against walks to addresses in it.
template <class Format>
void try_mappings(const Format& format, memory& m, const question& q)
{
    m.limit = 3'000'000;
    m.asked_for = 0;
    lay_out_run(format, m, q);
    std::vector<mapping> found;
    for_each_mapping(format, q.root, q.range, m, [&](const mapping& one) { found.push_back(one); }, plainly);
    for (std::size_t i = 0; i < found.size(); ++i) {
        const mapping& one = found[i];
        const std::uint64_t last = one.address + (one.bytes - 1);
        require(one.bytes != 0 && last >= one.address && one.address <= q.range.last && last >= q.range.first);
        if (i == 0) continue;
        require(found[i - 1].address + (found[i - 1].bytes - 1) < one.address && !found[i - 1].continued_by(one));
    }
    std::vector<std::uint64_t> addresses{q.range.first, q.range.last,
                                         q.range.first + (q.range.last - q.range.first) / 2};
    for (std::size_t i = 0; i < found.size() && i < 8; ++i) {
        addresses.push_back(found[i].address);
        addresses.push_back(found[i].address + (found[i].bytes - 1));
    }
    for (const std::uint64_t address : addresses) {
        if (address < q.range.first || address > q.range.last) continue;
        const walk_result r = walk(format, q.root, address, {}, {}, m, update_flags::no, plainly);
        const bool mapped = r || r.fault == fault_kind::protection;
        const mapping* over = nullptr;
        for (const mapping& one : found) {
            if (address >= one.address && address - one.address < one.bytes) over = &one;
        }
        require(mapped == (over != nullptr));
        if (!mapped) continue;
        require(r.address == over->physical + (address - over->address) && r.allowed == over->allowed);
        require(r.page_shift == over->page_shift && r.memory_type() == over->memory_type);
    }
}

// ---- walks

template <class Format>
void try_batch(const Format& format, memory& m, const question& q)
{
    m.limit = 1'000'000;
    m.asked_for = 0;
    const std::size_t count = q.value % 70;
    std::vector<std::uint64_t> addresses(count);
    const unsigned spread = q.value >> 8 & 63;
    for (std::size_t i = 0; i < count; ++i) addresses[i] = q.address + (i * i << spread);
    std::vector<walk_result> results(count);
    const update_flags update = (q.value >> 14 & 1) != 0 ? update_flags::yes : update_flags::no;
    const std::vector<std::uint64_t> before = m.words;
    walk_batch(format, q.root, addresses.data(), count, q.what, {}, m, results.data(), update, plainly);
    const std::vector<std::uint64_t> after = std::exchange(m.words, before);
    for (std::size_t i = 0; i < count; ++i) {
        require(same(results[i], walk(format, q.root, addresses[i], q.what, {}, m, update, plainly)));
    }
    require(m.words == after);
    m.words = before;
}

/// A large page on the way to an address, split: the walk comes out where it did. Merged, the
/// slot is as it was.
template <class Format>
void try_split(const Format& format, memory& m, const question& q)
{
    m.limit = 100'000;
    m.asked_for = 0;
    const walk_result r = walk(format, q.root, q.address, {}, {}, m, update_flags::no, plainly);
    if (r.steps == 0 || r.level == 1 || r.page_shift == 0 || (!r && r.fault != fault_kind::protection)) return;
    const auto go = [&]<class Word>(std::type_identity<Word> size) {
        // The table is behind all others, where nothing refers to.
        const std::size_t words = m.words.size();
        m.words.resize(words + 512);
        const std::uint64_t table_address = base + words * 8;
        Word* const table = m(table_address, size);
        Word* const slot = m(r.path[r.steps - 1].slot_address, size);
        const Word leaf = *slot;
        const split_error e = split_live(*slot, r.level, table, table_address, format, 0, plainly);
        if (e == split_error::none) {
            const walk_result s = walk(format, q.root, q.address, {}, {}, m, update_flags::no, plainly);
            require(s.fault == r.fault && s.address == r.address && s.allowed == r.allowed);
            require(s.level == r.level - 1 && s.steps == r.steps + 1);
            const resized whole = merge(table, *slot, r.level, format);
            require(whole && whole.entry == leaf);
            *slot = leaf;
        }
        require(*slot == leaf);
        m.words.resize(words);
    };
    if (format->shape().entry_bits == 64) {
        go(std::type_identity<std::uint64_t>{});
    } else {
        go(std::type_identity<std::uint32_t>{});
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    input in(data, size);
    const unsigned which = in.byte();
    with_format_from(in, [&](const auto& format) {
        question q;
        q.root = in.flag() ? in.number(8) : base + in.byte() % pages * 0x1000;
        // As the CPU has it, but for PAE: aligned, so that all of a table is in memory or nothing.
        q.root &= format->shape().levels == 3 ? ~std::uint64_t{31} : ~std::uint64_t{0xfff};
        q.address = in.number(8);
        if (in.flag()) q.address = static_cast<std::uint64_t>(static_cast<std::int64_t>(q.address << 16) >> 16);
        // Ranges of Gbytes take milliseconds, so there are few of them.
        const std::uint64_t length = in.number(4);
        const unsigned cut = in.byte();
        q.range.first = q.address;
        q.range.last = q.address + (length >> (cut == 0 ? 4 : 10 + cut % 22));
        if (q.range.last < q.range.first) q.range.last = ~std::uint64_t{0};
        q.what = {.what = static_cast<operation>(in.byte() & 3), .user = in.flag()};
        q.value = in.number(4);
        memory m(in);
        switch (which % 5) {
        case 0:
            return try_once(format, m, q);
        case 1:
            return try_ranges(format, m, q);
        case 2:
            return try_mappings(format, m, q);
        case 3:
            return try_batch(format, m, q);
        default:
            return try_split(format, m, q);
        }
    });
    return 0;
}
