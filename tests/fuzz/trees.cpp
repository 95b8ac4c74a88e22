// SPDX-License-Identifier: BSL-1.0
// Whole trees in arbitrary memory: visits, mappings, ageing and harvesting of ranges, walks
// in batches and splitting of live pages read nothing outside memory, end, and agree with
// one another where two of them answer one question. Trees are arbitrary too, or made by
// arbitrary operations, each of which does to the mappings what it says.
#include <algorithm>
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

// ---- trees that are built

/// Tables behind all other memory, with contents by chance. Each comes back once, before it goes out again.
class table_source {
public:
    static constexpr std::size_t most = 48;

    explicit table_source(memory& m) : begin_(base + m.words.size() * 8)
    {
        const std::vector<std::uint64_t> contents(m.words.begin(), m.words.begin() + 512);
        for (std::size_t n = 0; n < most; ++n) m.words.insert(m.words.end(), contents.begin(), contents.end());
    }
    optional_address allocate(unsigned level)
    {
        const std::size_t n = static_cast<std::size_t>(std::find(used_, used_ + room, 0) - used_);
        if (n == room) return {};
        used_[n] = level + 1;
        return begin_ + n * 0x1000;
    }
    void release(std::uint64_t table, unsigned level)
    {
        unsigned& place = used_[(table - begin_) / 0x1000];
        require(place == level + 1);
        place = 0;
    }
    [[nodiscard]] std::size_t count() const
    {
        return most - static_cast<std::size_t>(std::count(used_, used_ + most, 0));
    }

    std::size_t room = most;  ///< beyond this there is none

private:
    unsigned used_[most] = {};  // the table's level, plus one
    std::uint64_t begin_;
};

/// What a range maps, whatever the sizes of its pages.
struct piece {
    inclusive_range range;
    std::uint64_t delta = 0;  ///< physical address less address
    permissions allowed;
    std::uint64_t memory_type = 0;

    [[nodiscard]] bool continued_by(const piece& next) const
    {
        return range.last + 1 == next.range.first && next.range.first != 0 && delta == next.delta &&
               allowed == next.allowed && memory_type == next.memory_type;
    }
    [[nodiscard]] bool operator==(const piece& other) const
    {
        return range.first == other.range.first && range.last == other.range.last && delta == other.delta &&
               allowed == other.allowed && memory_type == other.memory_type;
    }
};
using pieces = std::vector<piece>;

void add(pieces& all, const piece& added)
{
    if (added.range.empty()) return;
    if (!all.empty() && all.back().continued_by(added)) {
        all.back().range.last = added.range.last;
    } else {
        all.push_back(added);
    }
}

pieces in_order(pieces all)
{
    std::sort(all.begin(), all.end(), [](const piece& a, const piece& b) { return a.range.first < b.range.first; });
    pieces joined;
    for (const piece& p : all) add(joined, p);
    return joined;
}

/// The parts of pieces inside a range, or outside.
pieces cut(const pieces& all, inclusive_range range, bool inside)
{
    pieces parts;
    for (const piece& p : all) {
        piece before = p;
        piece within = p;
        piece behind = p;
        if (range.first <= p.range.first) {
            before.range = {1, 0};
        } else {
            before.range.last = std::min(p.range.last, range.first - 1);
            within.range.first = range.first;
        }
        if (range.last >= p.range.last) {
            behind.range = {1, 0};
        } else {
            behind.range.first = std::max(p.range.first, range.last + 1);
            within.range.last = range.last;
        }
        if (inside) {
            add(parts, within);
        } else {
            add(parts, before);
            add(parts, behind);
        }
    }
    return parts;
}

/// All that a tree maps. Between the mappings are holes, and nothing else.
template <class Format>
pieces mapped_by(const Format& format, std::uint64_t root, memory& m)
{
    pieces all;
    m.asked_for = 0;
    m.limit = 100'000;
    const auto found = [&](const mapping& one) {
        const inclusive_range range{one.address, one.address + (one.bytes - 1)};
        add(all, {range, one.physical - one.address, one.allowed, one.memory_type});
    };
    const visit_summary s = for_each_mapping(format, root, {}, m, found, plainly);
    require(s.missing == 0);
    return all;
}

/// One operation on a tree.
struct request {
    unsigned what = 0;
    inclusive_range range;
    std::uint64_t physical = 0;
    permissions grant;
    map_options how;
    range_options ends;
    std::size_t room = 0;

    request(input& in, std::uint64_t around)
    {
        what = in.byte() % 8;
        const auto flags = static_cast<unsigned>(in.number(2));
        const auto on = [flags](unsigned bit) { return (flags >> bit & 1) != 0; };
        // Some pages of some size, mostly aligned, near others.
        constexpr unsigned sizes[] = {12, 12, 16, 21};
        const unsigned shift = sizes[flags & 3] + (on(2) && on(3) ? 9 : 0);
        const unsigned place = in.byte();
        range.first = (around >> 30 << 30) + (std::uint64_t{place & 3} << 21) + (std::uint64_t{place >> 3} << shift);
        range.last = range.first + (std::uint64_t{in.byte() % 32 + 1U} << shift) - 1;
        if (range.last < range.first) range.last = ~std::uint64_t{0};
        physical = (range.first & ones(27, 0)) + (std::uint64_t{in.byte()} << (on(4) ? shift : 28));
        grant = {.write = !on(5), .execute = !on(6)};
        how.what_exists = static_cast<existing>((flags >> 7 & 3) % 3);
        how.attributes.type = on(9) ? memory_type::uc : memory_type::wb;
        if (on(10)) how.page_sizes = ~(std::uint64_t{1} << 21);
        ends.ends = static_cast<range_end>((flags >> 11 & 3) % 3);
        if (on(13)) how.limit = ends.limit = 1 + in.byte();
        room = on(14) && on(15) ? in.byte() % table_source::most : table_source::most;
    }
};

/// The ranges of entries that were taken away.
struct taken_ranges {
    std::vector<inclusive_range> all;

    void operator()(const taken_page& page)
    {
        require(page.is != kind::none);
        all.push_back({page.address, page.address + ones(page.page_shift - 1, 0)});
    }
};

/// Does what is requested, and looks whether the tree maps what it must then.
template <class Tree>
void change(Tree& t, table_source& source, memory& m, const request& r)
{
    const auto& format = t.format;
    const pieces before = mapped_by(format, t.root, m);
    source.room = r.room;
    flush_list_of<4, 2> list;
    taken_ranges taken;
    map_options how = r.how;
    range_options ends = r.ends;
    tree_result done;
    // Until it has not just to go on.
    for (unsigned again = 0;; ++again) {
        m.asked_for = 0;
        m.limit = 1'000'000;
        switch (r.what) {
        case 0:
        case 1:
        case 2:
            done = map(t, r.range, r.physical, r.grant, list, how, taken);
            break;
        case 3:
            done = unmap(t, r.range, list, ends, taken);
            break;
        case 4:
            done = protect(t, r.range, r.grant, list, ends);
            break;
        case 5:
            done = split_pages(t, r.range, format->shape().page_shift(1), list, ends);
            break;
        case 6:
            done = merge_pages(t, r.range, 63, list, ends);
            break;
        default:
            done = prune(t, r.range, list, ends);
            break;
        }
        require(list.due() != flush_due::not_recorded);
        flushed(t, list);
        if (done.end != tree_end::limit && done.end != tree_end::list_full) break;
        require(again < 100'000);
        how.from = ends.from = done.next;
    }

    const pieces after = mapped_by(format, t.root, m);
    inclusive_range all = r.range;
    for (const inclusive_range& p : taken.all) all = {std::min(all.first, p.first), std::max(all.last, p.last)};
    require(r.ends.ends == range_end::whole || r.what != 3 || (all.first == r.range.first && all.last == r.range.last));
    pieces wanted = before;
    if (!done || (r.what == 4 && r.ends.ends == range_end::whole)) {
        // As far as it came.
        if (done.range.first < all.first) all.first = done.range.first;
        if (!done.range.empty() && done.range.last > all.last) all.last = done.range.last;
        require(cut(after, all, false) == cut(before, all, false));
        return;
    }
    if (r.what <= 2) {
        const encoded leaf = encode(kind::leaf, 1, 0, r.grant, format);
        const std::uint64_t type = bits_for(r.how.attributes, 1, kind::leaf, format).bits;
        const piece added{r.range, r.physical - r.range.first, permissions_of(leaf.entry, 1, format),
                          type & format->layout_at(1, kind::leaf).mask(role::memory_type)};
        if (r.how.what_exists == existing::keep) {
            pieces fresh{added};
            for (const piece& p : before) fresh = cut(fresh, p.range, false);
            wanted.insert(wanted.end(), fresh.begin(), fresh.end());
        } else {
            wanted = cut(before, r.range, false);
            wanted.push_back(added);
        }
    } else if (r.what == 3) {
        for (const inclusive_range& p : taken.all) wanted = cut(wanted, p, false);
        require(cut(wanted, r.range, true).empty());
    } else if (r.what == 4) {
        pieces changed = cut(before, r.range, true);
        const encoded leaf = encode(kind::leaf, 1, 0, r.grant, format);
        for (piece& p : changed) p.allowed = permissions_of(leaf.entry, 1, format);
        wanted = cut(before, r.range, false);
        wanted.insert(wanted.end(), changed.begin(), changed.end());
    }
    require(in_order(wanted) == in_order(after));
}

/// Makes a tree by operations, all entries of which are legal, without a table too many. Returns its root.
template <class Format>
std::uint64_t build(const Format& format, memory& m, table_source& source, const std::vector<request>& requests)
{
    const std::uint64_t root = *source.allocate(format->shape().levels);
    tree<Format, memory&, table_source&, exclusive, plain_access> t{format, root, m, source};
    m.asked_for = 0;
    if (clear_root(t) != tree_end::done) return root;
    for (const request& r : requests) change(t, source, m, r);
    m.asked_for = 0;
    const auto look = [&](const auto& e) {
        require(translates(e.entry, format, e.level));
        return visit_next::into;
    };
    const visit_summary s = visit(format, root, {}, m, look, nullptr, plainly);
    require(s.entered == source.count() && s.missing == 0);
    return root;
}

/// And takes it away.
template <class Format>
void try_destroy(const Format& format, memory& m, table_source& source, const question& q)
{
    tree<Format, memory&, table_source&, exclusive, plain_access> t{format, q.root, m, source};
    flush_list_of<4, 2> list;
    taken_ranges taken;
    m.limit = 1'000'000;
    m.asked_for = 0;
    range_options some{.limit = q.value % 5000 + 1};
    for (;;) {
        const tree_result r = destroy(t, list, some, taken);
        flushed(t, list);
        if (r.end != tree_end::limit && r.end != tree_end::list_full) {
            require(r || r.end == tree_end::not_a_root);
            break;
        }
        some.from = r.next;
    }
    require(source.count() == 1);
    if (is_root(q.root, format)) require(mapped_by(format, q.root, m).empty());
}

// ---- visits

/// Every table once with the same rights, whatever refers to it; stopped somewhere.
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
    // A table is entered again only with more rights, of which there are five.
    require(s.entered <= 6 * count || (count == 0 && s.entered <= 1));
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
        if (!translates(e.entry, format, e.level)) return visit_next::over;
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
    if (format->shape().levels != 0 && !is_root(q.root, format)) {
        require(counts == range_counts{.missing = 1} && m.asked_for == 0 && m.words == before);
        return;
    }
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

template <class Format>
void ask(unsigned which, const Format& format, memory& m, const question& q)
{
    switch (which) {
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
        // In half of the inputs a tree that operations make, around the address.
        std::vector<request> requests;
        const unsigned built = in.byte() % 32;
        const shape& s = format->shape();
        if (built > 16 && s.levels != 0) {
            const std::uint64_t bytes = q.range.last - q.range.first;
            q.address = s.extended(q.address & (ones(s.address_bits() - 1, 30) | ones(23, 0)));
            q.range = {q.address, std::max(q.address, q.address + bytes)};
        }
        for (unsigned n = 16; n < built; ++n) requests.emplace_back(in, q.address);
        memory m(in);
        if (requests.empty()) return ask(which % 5, format, m, q);
        table_source source(m);
        q.root = build(format, m, source, requests);
        const std::vector<std::uint64_t> words = m.words;
        ask(which % 5, format, m, q);
        m.words = words;
        try_destroy(format, m, source, q);
    });
    return 0;
}
