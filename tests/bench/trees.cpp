// SPDX-License-Identifier: BSL-1.0
// Nanoseconds a page to map and unmap ranges of a tree, beside code written by hand for its format alone, as kernels
// have it: without checks of arguments, but with the same guarantees. Slots are looked at before they are written;
// entries that go are exchanged, so that A and D are not lost; a table is filled before it is linked; ranges to flush,
// tables to release and dirty pages are noted. In shared trees all is done by compare-exchange, and slots stay frozen
// until the flush, which is part of the times. One run, medians of rounds taken in turns, ratios within a round.
//   bench_trees [rounds]
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <new>
#include <ptebits/formats/ept.hpp>
#include <ptebits/map.hpp>
#include <ptebits/unmap.hpp>
#include <type_traits>
#include <vector>

using namespace ptebits;

namespace {

using word = std::uint64_t;
constexpr auto host = ept<ept_features{}>;
constexpr word marker_value = word{1} << 60;
constexpr std::size_t most_tables = 600;

void require(bool right)
{
    if (!right) std::abort();
}

// Tables from physical address 0 up, the first of which is the root; those given back are given out again.
class table_pool {
public:
    table_pool() : words_(new(std::align_val_t{4096}) word[most_tables * 512])
    {
        std::fill_n(words_, 512, word{0});
        free_.reserve(most_tables);
        for (word n = most_tables; n-- > 1;) free_.push_back(n * 4096);
    }
    ~table_pool() { ::operator delete[](words_, std::align_val_t{4096}); }
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

private:
    word* words_;
    std::vector<word> free_;
};

// ---- by hand

constexpr word leaf_bits = 0x37;  // read, write, execute; write-back
constexpr word large_bit = 0x80;
constexpr word table_bits = 0x7;
constexpr word address_bits = 0xf'ffff'ffff'f000;
constexpr word dirty_bit = 0x200;

template <unsigned Level>
constexpr word bytes_of = word{1} << (3 + 9 * Level);  // that an entry translates

template <unsigned Level>
word index_of(word address)
{
    return address >> (3 + 9 * Level) & 511;
}
word load_slot(const word& slot) { return __atomic_load_n(&slot, __ATOMIC_ACQUIRE); }
bool is_set(word entry) { return (entry & 7) != 0; }
bool is_table(word entry) { return is_set(entry) && (entry & large_bit) == 0; }
bool replace_slot(word& slot, word& seen, word entry)
{
    return __atomic_compare_exchange_n(&slot, &seen, entry, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

class by_hand {
public:
    template <bool Shared, unsigned Page>
    bool map(word first, word last, word physical)
    {
        return fill<Shared, true, Page, 4>(pool_.at(0), first, last, physical);
    }
    template <bool Shared>
    word unmap(word first, word last)  // returns how many pages
    {
        first_due_ = std::min(first_due_, first);
        last_due_ = std::max(last_due_, last);
        return take_away<Shared, 4>(pool_.at(0), first, last);
    }
    template <bool Shared>
    void flushed()
    {
        if (Shared && first_due_ <= last_due_) thaw<4>(pool_.at(0), first_due_, last_due_);
        for (unsigned n = 0; n < queued_count_; ++n) pool_.give(queued_[n]);
        queued_count_ = 0;
        first_due_ = ~word{0};
        last_due_ = 0;
        smallest_due_ = 4;
    }
    // The slot of level 1; makes the tables that lack.
    word* path(word address)
    {
        word* table = pool_.at(0);
        for (unsigned shift = 39; shift > 12; shift -= 9) {
            word& slot = table[address >> shift & 511];
            word entry = load_slot(slot);
            if (!is_set(entry)) {
                const word made = pool_.take();
                std::fill_n(pool_.at(made), 512, word{0});
                put<false>(slot, entry, made | table_bits);
                entry = made | table_bits;
            }
            if (!is_table(entry)) return nullptr;
            table = pool_.at(entry & address_bits);
        }
        return &table[index_of<1>(address)];
    }
    [[nodiscard]] word dirty_pages() const { return dirty_pages_; }

private:
    // Writes a slot that was seen empty. False: another thread was first.
    template <bool Shared>
    static bool put(word& slot, word seen, word entry)
    {
        if constexpr (Shared) return replace_slot(slot, seen, entry);
        __atomic_store_n(&slot, entry, __ATOMIC_RELEASE);
        return true;
    }

    template <bool Shared, bool Linked, unsigned Page, unsigned Level>
    bool fill(word* table, word first, word last, word physical)
    {
        if constexpr (Level == Page) {
            const word end = index_of<Level>(last) + 1;
            for (word i = index_of<Level>(first); i < end; ++i, physical += bytes_of<Level>) {
                const word entry = physical | leaf_bits | (Level > 1 ? large_bit : 0);
                if constexpr (!Linked) {
                    __atomic_store_n(&table[i], entry, __ATOMIC_RELAXED);
                } else if (load_slot(table[i]) != 0 || !put<Shared>(table[i], 0, entry)) {
                    return false;
                }
            }
        } else {
            for (word at = first, end = 0;; at = end + 1) {
                end = std::min(last, at | (bytes_of<Level> - 1));
                word& slot = table[index_of<Level>(at)];
                const word entry = Linked ? load_slot(slot) : 0;
                if (entry == 0) {
                    const word made = pool_.take();
                    word* const below = pool_.at(made);
                    std::fill(below, below + index_of<Level - 1>(at), word{0});
                    std::fill(below + index_of<Level - 1>(end) + 1, below + 512, word{0});
                    fill<Shared, false, Page, Level - 1>(below, at, end, physical + (at - first));
                    if (!put < Shared && Linked > (slot, entry, made | table_bits)) {
                        pool_.give(made);  // a kernel gives those below back, too, and looks again
                        return false;
                    }
                } else if (!is_table(entry) || !fill<Shared, Linked, Page, Level - 1>(
                                                   pool_.at(entry & address_bits), at, end, physical + (at - first))) {
                    return false;
                }
                if (end == last) break;
            }
        }
        return true;
    }

    template <bool Shared, unsigned Level>
    word take_away(word* table, word first, word last)
    {
        word pages = 0;
        word at = first;
        const word stop = index_of<Level>(last) + 1;
        for (word i = index_of<Level>(first); i < stop; ++i, at = (at | (bytes_of<Level> - 1)) + 1) {
            word entry = load_slot(table[i]);
            if (!is_set(entry)) continue;
            if constexpr (Level > 1) {
                if (is_table(entry)) {
                    const word end = std::min(last, at | (bytes_of<Level> - 1));
                    pages += take_away<Shared, Level - 1>(pool_.at(entry & address_bits), at, end);
                    if (!Shared && end - at == bytes_of<Level> - 1) {
                        __atomic_store_n(&table[i], 0, __ATOMIC_RELEASE);
                        queued_[queued_count_++] = entry & address_bits;
                    }
                    continue;
                }
            }
            if constexpr (Shared) {
                while (is_set(entry) && !replace_slot(table[i], entry, marker_value)) {
                }
                if (!is_set(entry)) continue;  // another thread took it
            } else {
                entry = __atomic_exchange_n(&table[i], 0, __ATOMIC_ACQ_REL);
            }
            ++pages;
            dirty_pages_ += (entry & dirty_bit) != 0;
            smallest_due_ = std::min(smallest_due_, Level);
        }
        return pages;
    }

    // Empties the frozen slots of level 1.
    template <unsigned Level>
    void thaw(word* table, word first, word last)
    {
        word at = first;
        const word stop = index_of<Level>(last) + 1;
        for (word i = index_of<Level>(first); i < stop; ++i, at = (at | (bytes_of<Level> - 1)) + 1) {
            const word entry = load_slot(table[i]);
            if constexpr (Level > 1) {
                const word end = std::min(last, at | (bytes_of<Level> - 1));
                if (is_table(entry)) thaw<Level - 1>(pool_.at(entry & address_bits), at, end);
            } else {
                if (entry == marker_value) __atomic_store_n(&table[i], 0, __ATOMIC_RELEASE);
            }
        }
    }

    table_pool pool_;
    word first_due_ = ~word{0};
    word last_due_ = 0;
    unsigned smallest_due_ = 4;
    std::array<word, most_tables> queued_{};
    unsigned queued_count_ = 0;
    word dirty_pages_ = 0;
};

// ---- by the library

struct pool_memory {
    table_pool* pool;
    word* operator()(word physical) const { return pool->at(physical); }
};
struct pool_allocator {
    table_pool* pool;
    [[nodiscard]] optional_address allocate(unsigned /*level*/) const { return pool->take(); }
    void release(word table, unsigned /*level*/) const { pool->give(table); }
};

class by_library {
    static constexpr auto by_marker = shared{frozen_marker<marker_value>(host)};
    using format = std::remove_cv_t<decltype(host)>;
    using sharing = std::remove_cv_t<decltype(by_marker)>;

public:
    template <bool Shared, unsigned Page>
    bool map(word first, word last, word physical)
    {
        return ptebits::map(use<Shared>(), {first, last}, physical, {}, list_, {.page_sizes = bytes_of<Page>}).end ==
               tree_end::done;
    }
    template <bool Shared>
    word unmap(word first, word last)
    {
        const auto report = [this](const taken_page& page) { dirty_pages_ += dirty(page.entry, host); };
        return ptebits::unmap(use<Shared>(), {first, last}, list_, {}, report).pages;
    }
    template <bool Shared>
    void flushed()
    {
        ptebits::flushed(use<Shared>(), list_);
    }
    word* path(word address) { return make_slot(alone_, address, 1, list_).slot; }
    [[nodiscard]] word dirty_pages() const { return dirty_pages_; }

private:
    template <bool Shared>
    auto& use()
    {
        if constexpr (Shared) {
            return together_;
        } else {
            return alone_;
        }
    }

    table_pool pool_;
    tree<format, pool_memory, pool_allocator> alone_{host, 0, {&pool_}, {&pool_}};
    tree<format, pool_memory, pool_allocator, sharing> together_{host, 0, {&pool_}, {&pool_}, by_marker};
    flush_list_of<32, most_tables> list_;
    word dirty_pages_ = 0;
};

// ---- the contests

constexpr word gigabyte = word{1} << 30;
constexpr word pages_of_gigabyte = gigabyte / 4096;
constexpr word singles = 20000;
constexpr word runs = 1000;
constexpr word paths = 200000;

struct contest {
    const char* what;
    word units;
};
constexpr contest contests[] = {{"1 Gbyte of 4-Kbyte pages, new tables: map", pages_of_gigabyte},
                                {"  unmap, with its tables", pages_of_gigabyte},
                                {"64 Gbytes of 2-Mbyte pages, new tables: map", 32768},
                                {"  unmap, with its tables", 32768},
                                {"512 Gbytes of 1-Gbyte pages, new table: map and unmap", 16384},
                                {"one 4-Kbyte page, tables there: map", singles},
                                {"  unmap", singles},
                                {"256 pages of 4 Kbytes, tables there, a page: map", runs * 256},
                                {"  unmap", runs * 256},
                                {"shared, 1 Gbyte of 4-Kbyte pages, tables there: map", pages_of_gigabyte},
                                {"  unmap", pages_of_gigabyte},
                                {"shared, one 4-Kbyte page: map", singles},
                                {"  unmap", singles},
                                {"shared, 256 pages of 4 Kbytes, a page: map", runs * 256},
                                {"  unmap", runs * 256},
                                {"path to a slot of level 1, tables there", paths}};
constexpr std::size_t contest_count = sizeof contests / sizeof *contests;

// Nanoseconds of each contest.
using times = std::array<double, contest_count>;

// Time of this process alone, so that others disturb less.
double now()
{
    timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
}

class stopwatch {
public:
    explicit stopwatch(times& result) : result_(result) {}
    template <class Function>
    void time(Function call)
    {
        const double begin = now();
        call();
        result_[next_++] = now() - begin;
    }

private:
    times& result_;
    std::size_t next_ = 0;
};

// Maps ranges of as many bytes at addresses that are far apart, and unmaps them, flushing after each.
template <bool Shared, class Side>
void scattered(Side& side, stopwatch& watch, word count, word bytes)
{
    const auto place = [bytes](word n) { return gigabyte + (n * 7919 * bytes & (gigabyte - 1)); };
    watch.time([&] {
        for (word n = 0; n < count; ++n) {
            require(side.template map<Shared, 1>(place(n), place(n) + bytes - 1, place(n)));
        }
    });
    watch.time([&] {
        for (word n = 0; n < count; ++n) {
            require(side.template unmap<Shared>(place(n), place(n) + bytes - 1) == bytes / 4096);
            side.template flushed<Shared>();
        }
    });
}

template <class Side>
void play(Side& side, times& result)
{
    stopwatch watch(result);
    constexpr word first = gigabyte;
    constexpr word last = 2 * gigabyte - 1;
    const auto unmap_all = [&side]<bool Shared>(word from, word to, word pages) {
        require(side.template unmap<Shared>(from, to) == pages);
        side.template flushed<Shared>();
    };
    const auto unmap_alone = [&](word from, word to, word pages) {
        unmap_all.template operator()<false>(from, to, pages);
    };
    watch.time([&] { require(side.template map<false, 1>(first, last, 0)); });
    watch.time([&] { unmap_alone(first, last, pages_of_gigabyte); });
    watch.time([&] { require(side.template map<false, 2>(0, 64 * gigabyte - 1, 0)); });
    watch.time([&] { unmap_alone(0, 64 * gigabyte - 1, 32 * 1024); });
    watch.time([&] {
        for (unsigned n = 0; n < 32; ++n) {
            require(side.template map<false, 3>(0, 512 * gigabyte - 1, 0));
            unmap_alone(0, 512 * gigabyte - 1, 512);
        }
    });
    // Tables that stay.
    for (word at = first; at < last; at += bytes_of<2>) require(side.path(at) != nullptr);
    scattered<false>(side, watch, singles, 4096);
    scattered<false>(side, watch, runs, 256 * 4096);
    watch.time([&] { require(side.template map<true, 1>(first, last, 0)); });
    watch.time([&] { unmap_all.template operator()<true>(first, last, pages_of_gigabyte); });
    scattered<true>(side, watch, singles, 4096);
    scattered<true>(side, watch, runs, 256 * 4096);
    watch.time([&] {
        for (word n = 0; n < paths; ++n) {
            require(side.path(first + (n * 7919 % pages_of_gigabyte) * 4096) != nullptr);
        }
    });
    unmap_alone(first, last, 0);
    require(side.dirty_pages() == 0);
}

double median(std::vector<double> values)
{
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv)
{
    const unsigned long rounds = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 21;
    require(rounds != 0);
    by_hand hand;
    by_library library;
    times warming_up;
    play(hand, warming_up);
    play(library, warming_up);
    std::vector<times> of_hand(rounds);
    std::vector<times> of_library(rounds);
    for (std::size_t n = 0; n < rounds; ++n) {
        if (n % 2 == 0) play(hand, of_hand[n]);
        play(library, of_library[n]);
        if (n % 2 != 0) play(hand, of_hand[n]);
    }
    std::printf("%-54s %11s %11s %6s\n", "", "by hand", "library", "ratio");
    for (std::size_t c = 0; c < contest_count; ++c) {
        std::vector<double> all[3];
        for (std::size_t n = 0; n < rounds; ++n) {
            all[0].push_back(of_hand[n][c] / static_cast<double>(contests[c].units));
            all[1].push_back(of_library[n][c] / static_cast<double>(contests[c].units));
            all[2].push_back(of_library[n][c] / of_hand[n][c]);
        }
        std::printf("%-54s %8.2f ns %8.2f ns %6.2f\n", contests[c].what, median(all[0]), median(all[1]),
                    median(all[2]));
    }
    return 0;
}
