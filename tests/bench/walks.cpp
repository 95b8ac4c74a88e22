// Nanoseconds a walk: the library's, with all checks, A and D not updated, beside a walk
// written by hand for the same format without any check. One run, medians of 9 rounds
// taken in turns, ratios within a round.
//   bench_walks [rounds]
// "chained": each address waits for the walk before it, as in a program that follows its
// own data; this is the time of a walk. "free": walks that do not wait for each other, so
// that the processor overlaps them as far as its window reaches. "kept": free walks whose
// whole results are stored, as walk_batch does. "one load": what memory gives at the most, the
// last entry of each walk read at an address that is known beforehand.
#include <sys/mman.h>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/npt.hpp>
#include <ptebits/formats/shadow.hpp>
#include <ptebits/nested_walk.hpp>
#include <ptebits/walk.hpp>
#include <ptebits/x86.hpp>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

using namespace ptebits;

namespace {

using word = std::uint64_t;
constexpr auto linear = shadow<shadow_features{}>;
constexpr auto pae = shadow<shadow_features{.levels = 3}>;
constexpr auto two_level = shadow<shadow_features{.levels = 2}>;
constexpr auto extended = ept<ept_features{}>;
constexpr auto nested = npt<npt_features{}>;

constexpr word address_bits = 0xf'ffff'ffff'f000;
constexpr word page_size_bit = 0x80;

// A run-time 0 that no compiler knows.
volatile word volatile_zero = 0;

// Memory from physical address 0 up, all of it there. On large pages of the host, as
// simulators have it, where there are any.
class physical_memory {
public:
    explicit physical_memory(std::size_t bytes)
        : size_(bytes), at_(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))
    {
        if (at_ == MAP_FAILED) std::abort();
        madvise(at_, bytes, MADV_HUGEPAGE);
    }
    physical_memory(const physical_memory&) = delete;
    physical_memory& operator=(const physical_memory&) = delete;
    ~physical_memory() { munmap(at_, size_); }

    word new_table()
    {
        const word at = used_;
        used_ += 0x1000;
        if (used_ > size_) std::abort();
        return at;
    }
    [[nodiscard]] word* words() const { return static_cast<word*>(at_); }
    [[nodiscard]] word used() const { return used_; }

private:
    std::size_t size_;
    void* at_;
    word used_ = 0x1000;  // 0 stays free
};

// ---- walks by hand

// Four levels of nine bits, whatever the other bits of the entries say.
word hand_walk(const word* words, word root, word address)
{
    word table = root;
    for (unsigned shift = 39;; shift -= 9) {
        const word entry = words[(table + (address >> shift & 511) * 8) >> 3];
        table = entry & address_bits;
        if (shift == 12 || (entry & page_size_bit) != 0) {
            const word offset = (word{1} << shift) - 1;
            return (table & ~offset) | (address & offset);
        }
    }
}

// The same over a host's tables, for a guest of some levels of some bits, whose entries are Words.
template <class Word, unsigned Levels, unsigned Bits>
word hand_nested_walk(const word* words, word guest_root, word host_root, word address)
{
    const auto* const slots = reinterpret_cast<const Word*>(words);
    constexpr word index_mask = (word{1} << Bits) - 1;
    word table = guest_root;
    for (unsigned shift = 12 + Bits * (Levels - 1);; shift -= Bits) {
        const word slot = hand_walk(words, host_root, table + (address >> shift & index_mask) * sizeof(Word));
        const word entry = slots[slot / sizeof(Word)];
        table = entry & address_bits;
        if (shift == 12 || (entry & page_size_bit) != 0) {
            const word offset = (word{1} << shift) - 1;
            return hand_walk(words, host_root, (table & ~offset) | (address & offset));
        }
    }
}

// ---- what is measured

struct scene {
    word* words;
    word root;        // of the tables that are walked; nested: the host's
    word guest_root;  // nested only
    std::vector<word> addresses;
    word offset_mask = 0;  // of a page; for one_load()
    std::vector<word> last_slots = {};
};

/// Walks all addresses of a scene; the sum of what they reach.
template <bool Chained, class Walk>
word walk_all(const scene& s, Walk walk_one)
{
    const word zero = volatile_zero;
    word sum = 0;
    word last = 0;
    for (const word address : s.addresses) {
        last = walk_one(Chained ? address + (last & zero) : address);
        sum += last;
    }
    return sum;
}

template <bool Chained>
word hand(const scene& s)
{
    return walk_all<Chained>(s, [&](word address) { return hand_walk(s.words, s.root, address); });
}

template <class Format, bool Chained>
word library(const scene& s)
{
    const auto memory = [words = s.words](word physical) { return words + (physical >> 3); };
    return walk_all<Chained>(s, [&](word address) {
        const walk_result r = walk(Format{}, s.root, address, {}, {}, memory, update_flags::no);
        return r ? r.address : 0;
    });
}

// Results are kept for so many addresses at once.
constexpr std::size_t at_once = 256;

word address_of(const walk_result& r) { return r.address; }
word address_of(const nested_result<ptebits::memory_access>& r) { return r.address(); }

/// walk_at_once(addresses, count, results) for all addresses of a scene.
template <class Result = walk_result, class Walk>
word keep_results(const scene& s, Walk walk_at_once)
{
    static std::array<Result, at_once> results;
    word sum = 0;
    for (std::size_t i = 0; i < s.addresses.size(); i += at_once) {
        const std::size_t n = std::min(at_once, s.addresses.size() - i);
        walk_at_once(&s.addresses[i], n, results.data());
        for (std::size_t j = 0; j < n; ++j) sum += results[j] ? address_of(results[j]) : 0;
    }
    return sum;
}

template <class Format>
word kept(const scene& s)
{
    const auto memory = [words = s.words](word physical) { return words + (physical >> 3); };
    return keep_results(s, [&](const word* addresses, std::size_t n, walk_result* results) {
        for (std::size_t i = 0; i < n; ++i) {
            results[i] = walk(Format{}, s.root, addresses[i], {}, {}, memory, update_flags::no);
        }
    });
}

template <class Format>
word batch(const scene& s)
{
    const auto memory = [words = s.words](word physical) { return words + (physical >> 3); };
    return keep_results(s, [&](const word* addresses, std::size_t n, walk_result* results) {
        walk_batch(Format{}, s.root, addresses, n, {}, {}, memory, results, update_flags::no);
    });
}

// The last entries alone. Not a walk: the sum is that of the addresses reached, to pass the check.
word one_load(const scene& s)
{
    word sum = 0;
    for (std::size_t i = 0; i < s.addresses.size(); ++i) {
        sum += (s.words[s.last_slots[i]] & address_bits & ~s.offset_mask) | (s.addresses[i] & s.offset_mask);
    }
    return sum;
}

// Memory with slots of both widths, as 2-level guests need it.
struct both_widths {
    word* words;

    word* operator()(word physical, std::type_identity<word>) const { return words + (physical >> 3); }
    std::uint32_t* operator()(word physical, std::type_identity<std::uint32_t>) const
    {
        return reinterpret_cast<std::uint32_t*>(words) + (physical >> 2);
    }
};

template <class Guest, bool Chained>
word nested_hand(const scene& s)
{
    constexpr unsigned levels = Guest::value.shape().levels;
    return walk_all<Chained>(s, [&](word address) {
        return hand_nested_walk < slot_type_of<Guest>, levels,
               levels == 2 ? 10 : 9 > (s.words, s.guest_root, s.root, address);
    });
}

template <class Guest, class Host, bool Chained>
word nested_library(const scene& s)
{
    return walk_all<Chained>(s, [&](word address) {
        const auto r =
            nested_walk(Guest{}, s.guest_root, Host{}, s.root, address, {}, {}, both_widths{s.words}, update_flags::no);
        return r ? r.address() : 0;
    });
}

template <class Guest, class Host>
word nested_kept(const scene& s)
{
    using result = nested_result<ptebits::memory_access>;
    return keep_results<result>(s, [&](const word* addresses, std::size_t n, result* results) {
        for (std::size_t i = 0; i < n; ++i) {
            results[i] = nested_walk(Guest{}, s.guest_root, Host{}, s.root, addresses[i], {}, {}, both_widths{s.words},
                                     update_flags::no);
        }
    });
}

template <class Guest, class Host>
word nested_batch(const scene& s)
{
    using result = nested_result<ptebits::memory_access>;
    return keep_results<result>(s, [&](const word* addresses, std::size_t n, result* results) {
        nested_walk_batch(Guest{}, s.guest_root, Host{}, s.root, addresses, n, {}, {}, both_widths{s.words}, results,
                          update_flags::no);
    });
}

/// One way to walk; the first of a contest is what the others are held against.
struct contestant {
    std::string name;
    word (*run)(const scene&);
};

double nanoseconds_a_walk(const contestant& c, const scene& s, unsigned passes, word& sum)
{
    const auto start = std::chrono::steady_clock::now();
    sum = 0;
    for (unsigned pass = 0; pass < passes; ++pass) sum += c.run(s);
    const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - start;
    return spent.count() / (static_cast<double>(s.addresses.size()) * passes);
}

double median(std::vector<double> values)
{
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

void compete(const std::string& what, const scene& s, const std::vector<contestant>& all, unsigned rounds,
             unsigned passes)
{
    std::vector<std::vector<double>> ns(all.size());
    std::vector<std::vector<double>> ratio(all.size());
    std::vector<word> sums(all.size());
    for (unsigned round = 0; round < rounds; ++round) {
        for (std::size_t turn = 0; turn < all.size(); ++turn) {
            const std::size_t i = (turn + round) % all.size();
            ns[i].push_back(nanoseconds_a_walk(all[i], s, passes, sums[i]));
        }
        for (std::size_t i = 0; i < all.size(); ++i) ratio[i].push_back(ns[i].back() / ns[0].back());
    }
    for (std::size_t i = 1; i < all.size(); ++i) {
        if (sums[i] != sums[0]) {
            std::fprintf(stderr, "%s: %s and %s reach different addresses\n", what.c_str(), all[0].name.c_str(),
                         all[i].name.c_str());
            std::exit(1);
        }
    }
    std::printf("%-42s", what.c_str());
    for (std::size_t i = 0; i < all.size(); ++i) {
        std::printf("  %s %.2f ns %.1f M/s", all[i].name.c_str(), median(ns[i]), 1e3 / median(ns[i]));
        if (i != 0) std::printf(" %.2f", median(ratio[i]));
    }
    std::printf("\n");
}

// ---- scenes

struct page_map {
    unsigned level;  // of the leaves: 1 or 2
    word pages;
    [[nodiscard]] unsigned shift() const { return 12 + 9 * (level - 1); }
    // Room for the tables, those above the last level included.
    [[nodiscard]] word bytes_of_tables() const { return pages * 8 + pages / 32 + (word{64} << 12); }
    // Pages lie in another order than their addresses.
    [[nodiscard]] word place_of(word page) const { return page * 0x9e3779b1 % pages << shift(); }
};

template <class Format>
void map(const Format& format, physical_memory& memory, word root, unsigned leaf_level, word address, word place)
{
    using slot_type = slot_type_of<Format>;
    auto* const slots = reinterpret_cast<slot_type*>(memory.words());
    const auto made = [](encoded e) { return static_cast<slot_type>(e ? e.entry : (std::abort(), 0)); };
    const auto slot = [&](word table, unsigned level) -> slot_type& {
        return slots[format->shape().slot_address(table, address, level) / sizeof(slot_type)];
    };
    word table = root;
    for (unsigned level = format->shape().levels; level > leaf_level; --level) {
        slot_type& entry = slot(table, level);
        if (entry == 0) entry = made(encode(kind::table, level, memory.new_table(), {}, format));
        table = address_of(entry, level, format);
    }
    slot_type& entry = slot(table, leaf_level);
    entry = made(encode(kind::leaf, leaf_level, place, {}, format));
    // The memory type of EPT leaves is write-back; bits 5:3 of the other format are caching, too.
    if constexpr (std::is_same_v<regime_of<Format>, extended_paging>) entry |= format->memory_type(6);
}

// Maps `base` and what follows to `to` and what follows.
template <class Format>
void map_all(const Format& format, physical_memory& memory, word root, const page_map& m, word base, word to)
{
    for (word page = 0; page < m.pages; ++page) {
        map(format, memory, root, m.level, base + (page << m.shift()), to + m.place_of(page));
    }
}

std::vector<word> addresses_in(const page_map& m, bool random, std::size_t count)
{
    std::mt19937_64 engine(m.pages);
    std::vector<word> all(count);
    for (std::size_t i = 0; i < count; ++i) {
        const word page = random ? engine() % m.pages : i % m.pages;
        all[i] = (page << m.shift()) + (engine() & ((word{1} << m.shift()) - 1) & ~word{7});
    }
    return all;
}

// The last entry of each walk, and what it leaves of an address.
template <class Format>
void find_last_slots(scene& s)
{
    const auto memory = [words = s.words](word physical) { return words + (physical >> 3); };
    s.last_slots.clear();
    for (const word address : s.addresses) {
        const walk_result r = walk(Format{}, s.root, address, {}, {}, memory, update_flags::no);
        s.last_slots.push_back(r.path[r.steps - 1].slot_address >> 3);
        s.offset_mask = (word{1} << r.page_shift) - 1;
    }
}

struct place {
    const char* name;
    word pages;
    unsigned passes;
};

}  // namespace

int main(int argc, char** argv)
{
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 9;
    if (rounds < 1) {
        std::fprintf(stderr, "usage: bench_walks [rounds]\n");
        return 2;
    }
    // Tables of 32 Kbytes, and of 512 Mbytes, in each dimension.
    const place places[] = {{"in cache", 1 << 12, 16}, {"out of it", 1 << 26, 1}};
    constexpr std::size_t walks = 1 << 17;
    std::printf("%s, medians of %d rounds\n", __VERSION__, rounds);

    for (const place& p : places) {
        const auto contest = [&](const std::string& what, const scene& s, const std::vector<contestant>& all) {
            compete(what, s, all, static_cast<unsigned>(rounds), p.passes);
        };
        for (const unsigned level : {1U, 2U}) {
            const page_map m{level, p.pages};
            physical_memory memory(2 * m.bytes_of_tables());
            const word ordinary_root = memory.new_table();
            map_all(linear, memory, ordinary_root, m, 0, 0);
            const word ept_root = memory.new_table();
            map_all(extended, memory, ept_root, m, 0, 0);
            for (const bool random : {false, true}) {
                const std::string how =
                    std::string(level == 1 ? "4K " : "2M ") + (random ? "random " : "sequential ") + p.name;
                scene s{memory.words(), ordinary_root, 0, addresses_in(m, random, walks)};
                const auto all_contests = [&]<class Format>(const std::string& format, Format) {
                    find_last_slots<Format>(s);
                    contest(format + how + ", free", s, {{"by hand", hand<false>}, {"walk", library<Format, false>}});
                    contest(format + how + ", chained", s, {{"by hand", hand<true>}, {"walk", library<Format, true>}});
                    contest(format + how + ", kept", s,
                            {{"walk", kept<Format>}, {"walk_batch", batch<Format>}, {"one load", one_load}});
                };
                all_contests("x86 ", linear);
                s.root = ept_root;
                all_contests("EPT ", extended);
            }
        }
        // A guest's tables stand at guest-physical addresses that the host maps to themselves,
        // its pages above; everything in 4K pages.
        const auto nested_contests = [&]<class Guest, class Host>(const std::string& formats, Guest guest, Host host) {
            const page_map m{1, p.pages};
            const word guest_pages_at = word{1} << (guest->shape().entry_bits == 64 ? 40 : 31);
            physical_memory memory(2 * m.bytes_of_tables());
            const word guest_root = memory.new_table();
            map_all(guest, memory, guest_root, m, 0, guest_pages_at);
            const word guest_tables_end = memory.used();
            const word host_root = memory.new_table();
            for (word table = 0; table < guest_tables_end; table += 0x1000)
                map(host, memory, host_root, 1, table, table);
            map_all(host, memory, host_root, m, guest_pages_at, 0);
            for (const bool random : {false, true}) {
                const std::string how = formats + (random ? " 4K random " : " 4K sequential ") + p.name;
                const scene s{memory.words(), host_root, guest_root, addresses_in(m, random, walks)};
                contest(how + ", free", s,
                        {{"by hand", nested_hand<Guest, false>}, {"nested_walk", nested_library<Guest, Host, false>}});
                contest(how + ", chained", s,
                        {{"by hand", nested_hand<Guest, true>}, {"nested_walk", nested_library<Guest, Host, true>}});
                contest(how + ", kept", s,
                        {{"nested_walk", nested_kept<Guest, Host>}, {"nested_walk_batch", nested_batch<Guest, Host>}});
            }
        };
        nested_contests("x86/EPT", linear, extended);
        nested_contests("x86/NPT", linear, nested);
        if (word{p.pages} << 12 > word{1} << 32) continue;  // more than the other guests translate
        nested_contests("PAE/EPT", pae, extended);
        nested_contests("PAE/NPT", pae, nested);
        nested_contests("2-level/EPT", two_level, extended);
        nested_contests("2-level/NPT", two_level, nested);
    }
}
