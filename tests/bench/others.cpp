// SPDX-License-Identifier: BSL-1.0
// The library beside the algorithms of others, on trees of ordinary paging in 4 levels, in one run, in turns:
//
// - the kernel's loops: a loop for each level and one over the entries, as kernels map, unmap, protect and age ranges,
//   look up addresses and dump page tables;
// - addresses in sorted chunks, as memflow translates them: of a whole batch the entries of one level are read, then
//   those of the next;
// - stage by stage, as gdb-pt-dump translates an address, and table by table, as it lists mappings: each entry of the
//   tables of a level becomes an object in a list, and pages are sorted and merged at the end.
//
// All are written anew, for this format alone, without checks of entries and arguments. Each result is compared with
// that of the library, which is the first contestant.
//
//   bench_others [rounds]                    medians of CPU time, and of the ratios within a round
//   bench_others list                        contests and contestants, numbered, and how many units a contest has
//   bench_others count CONTEST CONTESTANT    one of them once, for valgrind: --toggle-collect=counted_run
#include <sys/mman.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <memory>
#include <ptebits/formats/shadow.hpp>
#include <ptebits/map.hpp>
#include <ptebits/protect.hpp>
#include <ptebits/range.hpp>
#include <ptebits/unmap.hpp>
#include <ptebits/visit.hpp>
#include <ptebits/walk.hpp>
#include <ptebits/x86.hpp>
#include <random>
#include <string>
#include <vector>

namespace {

using word = std::uint64_t;
constexpr auto linear = ptebits::shadow<ptebits::shadow_features{}>;

constexpr word present_bit = 0x1;
constexpr word write_bit = 0x2;
constexpr word user_bit = 0x4;
constexpr word accessed_bit = 0x20;
constexpr word dirty_bit = 0x40;
constexpr word large_bit = 0x80;
constexpr word no_execute_bit = word{1} << 63;
constexpr word table_bits = present_bit | write_bit | user_bit;
constexpr word address_bits = 0xf'ffff'ffff'f000;
constexpr word page = 4096;
constexpr word gigabyte = word{1} << 30;
constexpr word pages_of_gigabyte = gigabyte / page;

void require(bool right)
{
    if (!right) std::abort();
}

// Tables from physical address 0 up, the first of which is the root; those given back are given out again.
class table_pool {
public:
    explicit table_pool(word tables) : bytes_(tables * page)
    {
        void* const at = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        require(at != MAP_FAILED);
        madvise(at, bytes_, MADV_HUGEPAGE);
        words_ = static_cast<word*>(at);
        free_.reserve(tables);
        for (word n = tables; n-- > 1;) free_.push_back(n * page);
    }
    ~table_pool() { munmap(words_, bytes_); }
    table_pool(const table_pool&) = delete;
    table_pool& operator=(const table_pool&) = delete;

    word take()
    {
        require(!free_.empty());
        const word table = free_.back();
        free_.pop_back();
        return table;
    }
    void give(word table) { free_.push_back(table); }
    [[nodiscard]] word* at(word physical) const { return words_ + physical / 8; }
    [[nodiscard]] std::size_t free_tables() const { return free_.size(); }

private:
    word bytes_;
    word* words_ = nullptr;
    std::vector<word> free_;
};

template <unsigned Level>
constexpr word bytes_of = word{1} << (3 + 9 * Level);  // that an entry translates

template <unsigned Level>
word index_of(word address)
{
    return address >> (3 + 9 * Level) & 511;
}
bool is_present(word entry) { return (entry & present_bit) != 0; }
bool is_large(word entry) { return (entry & large_bit) != 0; }
word read_once(const word& slot) { return __atomic_load_n(&slot, __ATOMIC_ACQUIRE); }

// One number of all leaves below a table, to compare trees: addresses and entries.
template <unsigned Level = 4>
word digest(const table_pool& pool, word table = 0, word address = 0)
{
    word sum = 0;
    for (word i = 0; i < 512; ++i, address += bytes_of<Level>) {
        const word entry = pool.at(table)[i];
        if (!is_present(entry)) continue;
        if constexpr (Level > 1) {
            if (!is_large(entry)) {
                sum += digest<Level - 1>(pool, entry & address_bits, address);
                continue;
            }
        }
        sum += (address + 1) * 0x9e37'79b9'7f4a'7c15 ^ (entry + Level) * 0xc2b2'ae3d'27d4'eb4f;
    }
    return sum;
}

// ---- trees that are changed

// As kernels do it.
class kernel_loops {
public:
    explicit kernel_loops(table_pool& pool) : pool_(pool) {}

    void map(word first, word last, word physical)
    {
        const auto set = [=](word& slot, word at) {
            require(read_once(slot) == 0);
            __atomic_store_n(&slot, (physical + (at - first)) | table_bits, __ATOMIC_RELAXED);
        };
        each<true>(first, last, set);
    }
    void unmap(word first, word last)
    {
        const auto take = [this](word& slot, word) {
            if (!is_present(read_once(slot))) return;
            dirty_pages_ += (__atomic_exchange_n(&slot, 0, __ATOMIC_ACQ_REL) & dirty_bit) != 0;
        };
        const auto gather = [this](word& slot, bool whole) {
            if (!whole) return;
            gathered_.push_back(slot & address_bits);
            __atomic_store_n(&slot, 0, __ATOMIC_RELAXED);
        };
        each<false>(first, last, take, gather);
    }
    void flushed()
    {
        for (const word table : gathered_) pool_.give(table);
        gathered_.clear();
    }
    void take_write(word first, word last)
    {
        const auto take = [](word& slot, word) {
            if (!is_present(read_once(slot))) return;
            // Empty meanwhile, so that no A or D is lost.
            const word entry = __atomic_exchange_n(&slot, 0, __ATOMIC_ACQ_REL);
            __atomic_store_n(&slot, entry & ~write_bit, __ATOMIC_RELAXED);
        };
        each<false>(first, last, take);
    }
    word age(word first, word last)
    {
        word sum = 0;
        const auto clear = [&sum](word& slot, word at) {
            const word entry = read_once(slot);
            if (!is_present(entry) || (entry & accessed_bit) == 0) return;
            if ((__atomic_fetch_and(&slot, ~accessed_bit, __ATOMIC_ACQ_REL) & accessed_bit) != 0) sum += at + 1;
        };
        each<false>(first, last, clear);
        return sum;
    }
    [[nodiscard]] word dirty_pages() const { return dirty_pages_; }

    /// leaf(slot, address) for the slots of level 1; leave(slot, whole table in the range) after what is below others.
    template <bool MakeTables, unsigned Level = 4, class Leaf, class Leave = void (*)(word&, bool)>
    void each(word first, word last, Leaf leaf, Leave leave = [](word&, bool) {}, word table = 0)
    {
        word* slot = pool_.at(table) + index_of<Level>(first);
        for (word at = first, end = 0;; at = end + 1, ++slot) {
            end = std::min(last, at | (bytes_of<Level> - 1));
            if constexpr (Level == 1) {
                leaf(*slot, at);
            } else {
                word entry = read_once(*slot);
                if (MakeTables && !is_present(entry)) {
                    entry = pool_.take() | table_bits;
                    std::fill_n(pool_.at(entry & address_bits), 512, word{0});
                    __atomic_store_n(slot, entry, __ATOMIC_RELEASE);
                }
                if (MakeTables || is_present(entry)) {
                    each<MakeTables, Level - 1>(at, end, leaf, leave, entry & address_bits);
                    leave(*slot, end - at == bytes_of<Level> - 1);
                }
            }
            if (end == last) return;
        }
    }

private:
    table_pool& pool_;
    std::vector<word> gathered_;
    word dirty_pages_ = 0;
};

struct pool_memory {
    table_pool* pool;
    word* operator()(word physical) const { return pool->at(physical); }
};
struct pool_allocator {
    table_pool* pool;
    [[nodiscard]] ptebits::optional_address allocate(unsigned /*level*/) const { return pool->take(); }
    void release(word table, unsigned /*level*/) const { pool->give(table); }
};

template <class Sharing = ptebits::exclusive>
class library {
public:
    explicit library(table_pool& pool, Sharing sharing = {}) : tree_{linear, 0, {&pool}, {&pool}, sharing} {}

    void map(word first, word last, word physical)
    {
        require(ptebits::map(tree_, {first, last}, physical, {}, list_, {.page_sizes = page}).end ==
                ptebits::tree_end::done);
    }
    void unmap(word first, word last)
    {
        const auto report = [this](const ptebits::taken_page& taken) { dirty_ += dirty(taken.entry, linear); };
        require(bool{ptebits::unmap(tree_, {first, last}, list_, {}, report)});
    }
    void flushed() { ptebits::flushed(tree_, list_); }
    void take_write(word first, word last)
    {
        require(bool{ptebits::protect(tree_, {first, last}, {.write = false}, list_)});
        flushed();
    }
    word age(word first, word last)
    {
        word sum = 0;
        ptebits::age_range(linear, 0, {first, last}, tree_.memory, [&](word address, word) { sum += address + 1; });
        return sum;
    }
    [[nodiscard]] word dirty_pages() const { return dirty_; }

private:
    ptebits::tree<std::remove_cv_t<decltype(linear)>, pool_memory, pool_allocator, Sharing> tree_;
    ptebits::flush_list_of<32, 600> list_;
    word dirty_ = 0;
};
constexpr auto by_marker = ptebits::shared{ptebits::frozen_marker<word{1} << 60>(linear)};

// ---- trees that are read

// What an address is translated to.
struct translation {
    word physical = 0;
    bool there = false;
    bool write = false;
    bool execute = false;
};

struct scene {
    std::unique_ptr<table_pool> pool;
    std::vector<word> addresses;
    std::vector<translation> results;
};

word digest(const std::vector<translation>& all)
{
    word sum = 0;
    for (const translation& t : all) {
        sum = sum * 0x9e37'79b9'7f4a'7c15 + (t.physical << 3 | word{t.there} << 2 | word{t.write} << 1 | t.execute);
    }
    return sum;
}

void translate_by_walk(scene& s)
{
    const pool_memory memory{s.pool.get()};
    for (std::size_t i = 0; i < s.addresses.size(); ++i) {
        const auto r = ptebits::walk(linear, 0, s.addresses[i], {}, {}, memory, ptebits::update_flags::no);
        s.results[i] = r ? translation{r.address, true, r.allowed.write, r.allowed.execute} : translation{};
    }
}
void translate_by_batches(scene& s)
{
    constexpr std::size_t most = 256;
    static std::array<ptebits::walk_result, most> results;
    const pool_memory memory{s.pool.get()};
    for (std::size_t i = 0; i < s.addresses.size(); i += most) {
        const std::size_t count = std::min(most, s.addresses.size() - i);
        ptebits::walk_batch(linear, 0, &s.addresses[i], count, {}, {}, memory, results.data(),
                            ptebits::update_flags::no);
        for (std::size_t n = 0; n < count; ++n) {
            const auto& r = results[n];
            s.results[i + n] = r ? translation{r.address, true, r.allowed.write, r.allowed.execute} : translation{};
        }
    }
}

// The kernel's lookup of an address, which also gives the rights of all levels.
translation kernel_lookup(const table_pool& pool, word address)
{
    word table = 0;
    word write = write_bit;
    word no_execute = 0;
    for (unsigned shift = 39;; shift -= 9) {
        const word entry = read_once(pool.at(table)[address >> shift & 511]);
        if (!is_present(entry)) return {};
        write &= entry;
        no_execute |= entry & no_execute_bit;
        table = entry & address_bits;
        if (shift != 12 && (shift == 39 || !is_large(entry))) continue;
        const word offset = (word{1} << shift) - 1;
        return {(table & ~offset) | (address & offset), true, write != 0, no_execute == 0};
    }
}
void translate_by_kernel(scene& s)
{
    for (std::size_t i = 0; i < s.addresses.size(); ++i) s.results[i] = kernel_lookup(*s.pool, s.addresses[i]);
}

// Stage by stage: what each stage saw is kept, for the user to read.
struct stage {
    word index;
    word physical;
    word other_bits;
};
[[gnu::noinline]] void read_physical(const table_pool& pool, word physical, void* to, std::size_t bytes)
{
    std::memcpy(to, pool.at(physical), bytes);
}
void translate_by_stages(scene& s)
{
    std::vector<stage> stages;
    for (std::size_t i = 0; i < s.addresses.size(); ++i) {
        const word address = s.addresses[i];
        translation& t = s.results[i] = {0, true, true, true};
        stages.clear();
        word table = 0;
        for (unsigned shift = 39; shift >= 12; shift -= 9) {
            const word index = address >> shift & 511;
            word entry = 0;
            read_physical(*s.pool, table + index * 8, &entry, sizeof entry);
            stages.push_back({index, entry & address_bits, entry & ~address_bits});
            if (!is_present(entry)) {
                t = {};
                break;
            }
            t.write = t.write && (entry & write_bit) != 0;
            t.execute = t.execute && (entry & no_execute_bit) == 0;
            table = entry & address_bits;
            if (shift == 12 || is_large(entry)) {
                const word offset = (word{1} << shift) - 1;
                t.physical = (table & ~offset) | (address & offset);
                break;
            }
        }
    }
}

// In sorted chunks: those of a level are the runs of addresses that have an entry in common.
class chunk_translator {
public:
    static constexpr std::size_t most = 512;  // addresses at once

    void translate(scene& s)
    {
        for (std::size_t i = 0; i < s.addresses.size(); i += most) {
            batch(s, i, std::min(most, s.addresses.size() - i));
        }
    }

private:
    struct wanted {
        word address;
        std::size_t result;
    };
    struct chunk {
        std::size_t first;
        std::size_t last;
        word table;  // then the slot's address, then the entry
        bool write;
        bool execute;
    };

    void batch(scene& s, std::size_t from, std::size_t count)
    {
        wanted_.clear();
        for (std::size_t n = from; n < from + count; ++n) wanted_.push_back({s.addresses[n], n});
        std::sort(wanted_.begin(), wanted_.end(),
                  [](const wanted& a, const wanted& b) { return a.address < b.address; });
        above_.assign(1, {0, count - 1, 0, true, true});
        for (unsigned shift = 39; !above_.empty(); shift -= 9) {
            split(shift);
            for (chunk& c : chunks_) read_physical(*s.pool, c.table, &c.table, sizeof c.table);
            above_.clear();
            for (const chunk& c : chunks_) go_on(s, c, shift);
        }
    }
    void split(unsigned shift)
    {
        chunks_.clear();
        for (const chunk& c : above_) {
            for (std::size_t first = c.first; first <= c.last;) {
                const word part = wanted_[first].address >> shift;
                std::size_t last = first;
                while (last < c.last && wanted_[last + 1].address >> shift == part) ++last;
                chunks_.push_back({first, last, c.table + (part & 511) * 8, c.write, c.execute});
                first = last + 1;
            }
        }
    }
    void go_on(scene& s, const chunk& c, unsigned shift)
    {
        const word entry = c.table;
        if (!is_present(entry)) {
            for (std::size_t n = c.first; n <= c.last; ++n) s.results[wanted_[n].result] = {};
            return;
        }
        const bool write = c.write && (entry & write_bit) != 0;
        const bool execute = c.execute && (entry & no_execute_bit) == 0;
        if (shift != 12 && !is_large(entry)) {
            above_.push_back({c.first, c.last, entry & address_bits, write, execute});
            return;
        }
        const word offset = (word{1} << shift) - 1;
        for (std::size_t n = c.first; n <= c.last; ++n) {
            s.results[wanted_[n].result] = {(entry & address_bits & ~offset) | (wanted_[n].address & offset), true,
                                            write, execute};
        }
    }

    std::vector<wanted> wanted_;
    std::vector<chunk> above_;
    std::vector<chunk> chunks_;
};
void translate_by_chunks(scene& s)
{
    static chunk_translator translator;
    translator.translate(s);
}

// Neighbouring pages with the same rights.
struct region {
    word address;
    word physical;
    word bytes;
    bool write;
    bool execute;
    bool user;
};
using regions = std::vector<region>;

word digest(const regions& all)
{
    word sum = 0;
    for (const region& r : all) {
        sum = sum * 0x9e37'79b9'7f4a'7c15 + (r.address ^ r.physical * 3 ^ r.bytes * 5) +
              (word{r.write} << 2 | word{r.execute} << 1 | r.user);
    }
    return sum;
}

// Appends a page, or makes the last region longer.
void note_page(regions& all, const region& next)
{
    if (!all.empty()) {
        region& r = all.back();
        if (r.address + r.bytes == next.address && r.physical + r.bytes == next.physical && r.write == next.write &&
            r.execute == next.execute && r.user == next.user) {
            r.bytes += next.bytes;
            return;
        }
    }
    all.push_back(next);
}

void list_by_library(const table_pool& pool, word last, regions& all)
{
    const auto memory = [&pool](word physical) -> const word* { return pool.at(physical); };
    ptebits::for_each_mapping(linear, 0, {0, last}, memory, [&all](const ptebits::mapping& m) {
        const ptebits::permissions& p = m.allowed;
        all.push_back({m.address, m.physical, m.bytes, p.write, p.execute, p.user});
    });
}

// As kernels dump their tables: a loop for each level, with the rights of the levels above.
template <unsigned Level>
void list_by_kernel(const table_pool& pool, word table, word address, word rights, word last, regions& all)
{
    for (word i = 0; i < 512; ++i, address += bytes_of<Level>) {
        if (address > last) return;
        const word entry = read_once(pool.at(table)[i]);
        if (!is_present(entry)) continue;
        // The inverse of no_execute_bit, so that all rights are joined by AND.
        const word joined = rights & (entry ^ no_execute_bit);
        if constexpr (Level > 1) {
            if (!is_large(entry)) {
                list_by_kernel<Level - 1>(pool, entry & address_bits, address, joined, last, all);
                continue;
            }
        }
        note_page(all, {address, entry & address_bits & ~(bytes_of<Level> - 1), bytes_of<Level>,
                        (joined & write_bit) != 0, (joined & no_execute_bit) != 0, (joined & user_bit) != 0});
    }
}

// Table by table, level by level: every present entry becomes an object with a member for each bit.
struct parsed_entry {
    word address;
    word physical;
    bool present;
    bool write;
    bool user;
    bool write_through;
    bool uncached;
    bool accessed;
    bool dirty;
    bool large;
    bool execute;
};
void parse_table(const table_pool& pool, const parsed_entry& above, unsigned shift, std::vector<parsed_entry>& found)
{
    std::array<word, 512> values;
    read_physical(pool, above.physical, values.data(), sizeof values);
    for (word i = 0; i < 512; ++i) {
        const word v = values[i];
        if (!is_present(v)) continue;
        found.push_back({above.address | i << shift, v & address_bits, true, (v & write_bit) != 0, (v & user_bit) != 0,
                         (v & 8) != 0, (v & 16) != 0, (v & accessed_bit) != 0, (v & dirty_bit) != 0,
                         shift == 12 || is_large(v), (v & no_execute_bit) == 0});
    }
}
void list_by_tables(const table_pool& pool, word last, regions& all)
{
    struct parsed_page {
        parsed_entry entry;
        word bytes;
    };
    std::vector<parsed_page> pages;
    std::vector<parsed_entry> above(1, parsed_entry{});
    for (unsigned shift = 39; shift >= 12; shift -= 9) {
        std::vector<parsed_entry> entries;
        for (const parsed_entry& e : above) parse_table(pool, e, shift, entries);
        above.clear();
        for (const parsed_entry& e : entries) {
            if (e.large) {
                pages.push_back({e, word{1} << shift});
            } else {
                above.push_back(e);
            }
        }
    }
    std::sort(pages.begin(), pages.end(),
              [](const parsed_page& a, const parsed_page& b) { return a.entry.address < b.entry.address; });
    for (const parsed_page& p : pages) {
        if (p.entry.address > last) break;
        note_page(all, {p.entry.address, p.entry.physical & ~(p.bytes - 1), p.bytes, p.entry.write, p.entry.execute,
                        p.entry.user});
    }
}

// ---- contests

struct contestant {
    std::string name;
    std::function<void()> prepare;  // not measured
    std::function<void()> run;
    std::function<word()> result;  // of the run: equal for all contestants
};
struct contest {
    std::string what;
    std::string unit;
    word units;
    std::vector<contestant> all;
};

constexpr word first_address = gigabyte;
constexpr word last_address = 2 * gigabyte - 1;
constexpr word singles = 20000;
constexpr word runs = 1000;
constexpr word tables_of_a_tree = 600;

word scattered(word n, word bytes) { return gigabyte + (n * 7919 * bytes & (gigabyte - 1)); }

template <class Side>
void map_scattered(Side& side, word count, word bytes)
{
    for (word n = 0; n < count; ++n) {
        side.map(scattered(n, bytes), scattered(n, bytes) + bytes - 1, scattered(n, bytes));
    }
}
template <class Side>
void unmap_scattered(Side& side, word count, word bytes)
{
    for (word n = 0; n < count; ++n) {
        side.unmap(scattered(n, bytes), scattered(n, bytes) + bytes - 1);
        side.flushed();
    }
}

// A tree and what it is changed by.
template <class Side>
struct tree_side {
    table_pool pool{tables_of_a_tree};
    Side side;

    template <class... Arguments>
    explicit tree_side(Arguments... more) : side(pool, more...)
    {
    }
    // Empties the tree and gives its tables back.
    void clear()
    {
        kernel_loops kernel(pool);
        kernel.unmap(0, 512 * gigabyte - 1);
        kernel.flushed();
        require(pool.free_tables() == tables_of_a_tree - 1);
    }
    void fill()
    {
        clear();
        kernel_loops(pool).map(first_address, last_address, 0);
    }
    // Empties the tree; its tables stay.
    void empty()
    {
        fill();
        kernel_loops(pool).each<false>(first_address, last_address, [](word& slot, word) { slot = 0; });
    }
    // One of so many pages is young.
    void make_young(word one_of)
    {
        fill();
        if (one_of == 0) return;
        kernel_loops(pool).each<false>(first_address, last_address, [=](word& slot, word at) {
            // Other places in each table.
            if ((at / page * 0x9e37'79b9 >> 8) % one_of == 0) slot |= accessed_bit;
        });
    }
};

constexpr std::size_t change_contests = 10;

// Adds a side to the contests of trees that are changed.
template <class Side, class... Arguments>
void add_side(std::vector<contest>& contests, const std::string& name, bool frees_tables, bool ages, Arguments... more)
{
    auto s = std::make_shared<tree_side<Side>>(more...);
    const auto tree = [s] { return digest(s->pool); };
    const auto tree_and_tables = [s] { return digest(s->pool) + s->pool.free_tables(); };
    const auto full_tree = [s] { s->fill(); };
    contests[0].all.push_back({name, [s] { s->clear(); }, [s] { s->side.map(first_address, last_address, 0); }, tree});
    if (frees_tables) {
        contests[1].all.push_back({name, full_tree,
                                   [s] {
                                       s->side.unmap(first_address, last_address);
                                       s->side.flushed();
                                   },
                                   tree_and_tables});
    }
    contests[2].all.push_back({name, [s] { s->empty(); }, [s] { map_scattered(s->side, singles, page); }, tree});
    const auto map_some = [s](word count, word bytes) {
        s->empty();
        kernel_loops kernel(s->pool);
        map_scattered(kernel, count, bytes);
    };
    contests[3].all.push_back(
        {name, [=] { map_some(singles, page); }, [s] { unmap_scattered(s->side, singles, page); }, tree});
    contests[4].all.push_back({name, [s] { s->empty(); }, [s] { map_scattered(s->side, runs, 256 * page); }, tree});
    contests[5].all.push_back(
        {name, [=] { map_some(runs, 256 * page); }, [s] { unmap_scattered(s->side, runs, 256 * page); }, tree});
    contests[6].all.push_back({name, full_tree, [s] { s->side.take_write(first_address, last_address); }, tree});
    if (!ages) return;
    auto aged = std::make_shared<word>();
    for (std::size_t n = 0; n < 3; ++n) {
        const word one_of = n == 0 ? 0 : n == 1 ? 10 : 1;
        if constexpr (requires { s->side.age(word{}, word{}); }) {
            contests[7 + n].all.push_back({name, [s, one_of] { s->make_young(one_of); },
                                           [s, aged] { *aged = s->side.age(first_address, last_address); },
                                           [s, aged] { return digest(s->pool) + *aged; }});
        }
    }
}

// Pages of 4 Kbytes with different rights, some of 2 Mbytes, and holes.
std::shared_ptr<scene> mixed_tree()
{
    auto s = std::make_shared<scene>();
    s->pool = std::make_unique<table_pool>(tables_of_a_tree);
    table_pool& pool = *s->pool;
    const word upper = pool.take();
    const word middle = pool.take();
    pool.at(0)[0] = upper | table_bits;
    pool.at(upper)[1] = middle | table_bits;
    std::mt19937_64 engine(1);
    for (word i = 0; i < 512; ++i) {
        const word physical = (i * 37 % 512) << 22;  // never next to each other
        if (i % 8 == 7) continue;
        if (i % 8 == 6) {
            pool.at(middle)[i] = physical | table_bits | large_bit;
            continue;
        }
        const word table = pool.take();
        pool.at(middle)[i] = table | table_bits;
        for (word j = 0; j < 512; j += 16) {
            constexpr word kinds[] = {table_bits | no_execute_bit, present_bit | user_bit, present_bit | no_execute_bit,
                                      0};
            const word bits = kinds[engine() % 4];
            for (word k = j; bits != 0 && k < j + 16; ++k) pool.at(table)[k] = (physical + k * page) | bits;
        }
    }
    return s;
}
// So many Gbytes of 4-Kbyte pages.
std::shared_ptr<scene> large_tree(word gigabytes)
{
    auto s = std::make_shared<scene>();
    s->pool = std::make_unique<table_pool>(gigabytes * 513 + 3);
    kernel_loops(*s->pool).map(0, gigabytes * gigabyte - 1, 0);
    return s;
}
void choose_addresses(scene& s, word first, word last, bool at_random)
{
    constexpr word count = 1 << 16;
    std::mt19937_64 engine(2);
    for (word n = 0; n < count; ++n) {
        const word step = (last - first + 1) / count;
        const word offset = at_random ? engine() % (last - first + 1) : n * step + engine() % step;
        s.addresses.push_back(first + (offset & ~word{7}));
    }
    s.results.resize(count);
}

contest translation_contest(const std::string& what, const std::shared_ptr<scene>& s)
{
    contest c{what, "address", s->addresses.size(), {}};
    const auto add = [&](const std::string& name, void (*translate)(scene&)) {
        c.all.push_back({name, [s] { std::fill(s->results.begin(), s->results.end(), translation{}); },
                         [s, translate] { translate(*s); }, [s] { return digest(s->results); }});
    };
    add("walk", translate_by_walk);
    add("walk_batch", translate_by_batches);
    add("kernel's lookup", translate_by_kernel);
    add("stage by stage (gdb-pt-dump)", translate_by_stages);
    add("sorted chunks (memflow)", translate_by_chunks);
    return c;
}

// Trees that others may read, too: mixed, and one out of cache.
struct all_contests {
    std::vector<contest> contests;
    std::shared_ptr<scene> mixed;
    std::shared_ptr<scene> in_order;
    std::shared_ptr<scene> large;
    std::shared_ptr<regions> listed = std::make_shared<regions>();

    explicit all_contests(bool without_large)
    {
        contests = {{"map 1 Gbyte of 4-Kbyte pages, new tables", "page", pages_of_gigabyte, {}},
                    {"unmap it, with its tables", "page", pages_of_gigabyte, {}},
                    {"map one 4-Kbyte page, tables there", "page", singles, {}},
                    {"unmap it", "page", singles, {}},
                    {"map 256 pages of 4 Kbytes, tables there", "page", runs * 256, {}},
                    {"unmap them", "page", runs * 256, {}},
                    {"take the write right of 1 Gbyte of 4-Kbyte pages", "page", pages_of_gigabyte, {}},
                    {"age 1 Gbyte of 4-Kbyte pages, none young", "page", pages_of_gigabyte, {}},
                    {"age 1 Gbyte of 4-Kbyte pages, a tenth young", "page", pages_of_gigabyte, {}},
                    {"age 1 Gbyte of 4-Kbyte pages, all young", "page", pages_of_gigabyte, {}}};
        require(contests.size() == change_contests);
        add_side<library<>>(contests, "library", true, true);
        add_side<library<std::remove_cv_t<decltype(by_marker)>>>(contests, "library, shared tree", false, false,
                                                                 by_marker);
        add_side<kernel_loops>(contests, "kernel's loops", true, true);

        mixed = mixed_tree();
        choose_addresses(*mixed, first_address, last_address, true);
        contests.push_back(translation_contest("translate random addresses of 1 Gbyte, all sorts of pages", mixed));
        in_order = mixed_tree();
        choose_addresses(*in_order, first_address, last_address, false);
        contests.push_back(translation_contest("translate ascending addresses of the same", in_order));
        if (!without_large) {
            large = large_tree(128);
            choose_addresses(*large, 0, 128 * gigabyte - 1, true);
            contests.push_back(translation_contest("translate random addresses of 128 Gbytes, 4-Kbyte pages", large));
        }

        contest list{"list the mappings of 1 Gbyte, all sorts of pages", "page", 0, {}};
        const auto add = [&](const std::string& name, auto run) {
            list.all.push_back({name, [all = listed] { all->clear(); },
                                [all = listed, s = mixed, run] { run(*s->pool, last_address, *all); },
                                [all = listed] { return digest(*all); }});
        };
        add("for_each_mapping", list_by_library);
        add("kernel's dump", [](const table_pool& pool, word last, regions& all) {
            list_by_kernel<4>(pool, 0, 0, ~word{0}, last, all);
        });
        add("table by table (gdb-pt-dump)", list_by_tables);
        for (word at = first_address; at < last_address; at += page) {
            const translation t = kernel_lookup(*mixed->pool, at);
            list.units += t.there;
        }
        contests.push_back(list);
    }
};

// ---- measuring

// Time of this process alone, so that others disturb less.
double now()
{
    timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
}
double median(std::vector<double> values)
{
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

void compete(const contest& c, std::size_t rounds)
{
    const bool progress = isatty(STDERR_FILENO) != 0;
    std::vector<std::vector<double>> ns(c.all.size());
    std::vector<std::vector<double>> ratio(c.all.size());
    word expected = 0;
    for (std::size_t round = 0; round <= rounds; ++round) {  // the first warms up
        if (progress) std::fprintf(stderr, "\r%s: round %zu of %zu\033[K", c.what.c_str(), round, rounds);
        std::vector<double> spent(c.all.size());
        for (std::size_t turn = 0; turn < c.all.size(); ++turn) {
            const std::size_t i = round == 0 ? turn : (turn + round) % c.all.size();
            c.all[i].prepare();
            const double begin = now();
            c.all[i].run();
            spent[i] = (now() - begin) / static_cast<double>(c.units);
            const word result = c.all[i].result();
            if (round == 0 && i == 0) expected = result;
            if (result != expected) {
                std::fprintf(stderr, "\n%s: the result of %s differs from that of %s\n", c.what.c_str(),
                             c.all[i].name.c_str(), c.all[0].name.c_str());
                std::exit(1);
            }
        }
        if (round == 0) continue;
        for (std::size_t i = 0; i < c.all.size(); ++i) {
            ns[i].push_back(spent[i]);
            ratio[i].push_back(spent[i] / spent[0]);
        }
    }
    if (progress) std::fprintf(stderr, "\r\033[K");
    for (std::size_t i = 0; i < c.all.size(); ++i) {
        std::printf("%-58s %-30s %9.2f %8s %13.2f\n", i == 0 ? c.what.c_str() : "", c.all[i].name.c_str(),
                    median(ns[i]), c.unit.c_str(), median(ratio[i]));
    }
    std::fflush(stdout);
}

}  // namespace

// For valgrind, which finds it by its name.
extern "C" [[gnu::noinline]] void counted_run(const std::function<void()>& run) { run(); }

namespace {

int usage()
{
    std::fprintf(stderr, "usage: bench_others [rounds] | list | count CONTEST CONTESTANT\n");
    return 2;
}

int measure(const std::vector<contest>& contests, int argc, char** argv)
{
    const std::string what = argc > 1 ? argv[1] : "21";
    if (what == "list" && argc == 2) {
        for (std::size_t c = 0; c < contests.size(); ++c) {
            for (std::size_t i = 0; i < contests[c].all.size(); ++i) {
                std::printf("%zu %zu %llu %s: %s\n", c, i, static_cast<unsigned long long>(contests[c].units),
                            contests[c].what.c_str(), contests[c].all[i].name.c_str());
            }
        }
        return 0;
    }
    if (what == "count" && argc == 4) {
        const std::size_t c = std::strtoul(argv[2], nullptr, 10);
        const std::size_t i = std::strtoul(argv[3], nullptr, 10);
        if (c >= contests.size() || i >= contests[c].all.size()) return usage();
        contests[c].all[i].prepare();
        counted_run(contests[c].all[i].run);
        return 0;
    }
    const std::size_t rounds = std::strtoul(what.c_str(), nullptr, 10);
    if (rounds == 0 || argc > 2) return usage();
    std::printf("%s, medians of %zu rounds in turns; results are compared\n\n", __VERSION__, rounds);
    std::printf("%-58s %-30s %9s %8s %13s\n", "what is done", "by", "ns", "for each", "times library");
    for (const contest& c : contests) compete(c, rounds);
    return 0;
}

}  // namespace

int main(int argc, char** argv)
{
    // Valgrind would take long to make the large tree.
    const all_contests all(argc > 1 && std::strtoul(argv[1], nullptr, 10) == 0);
    return measure(all.contests, argc, argv);
}
