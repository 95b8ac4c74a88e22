// SPDX-License-Identifier: BSL-1.0
// Walks over whatever memory, root, address and features come: no read outside the memory
// that was given, no end but those of fault_kind, no endless walk. For sanitizers.
//     clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -I include tests/fuzz/walk.cpp
// Without -fsanitize=fuzzer, -DPTEBITS_FUZZ_MAIN gives a program that makes random inputs:
//     walk SECONDS [SEED]
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ptebits/ptebits.hpp>
#include <ptebits/walk.hpp>
#include <vector>

using namespace ptebits;

namespace {

using asked = ptebits::memory_access;

/// Reads numbers from the input; zeros behind its end.
class input {
public:
    input(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

    std::uint64_t number(std::size_t bytes)
    {
        std::uint64_t value = 0;
        const std::size_t taken = bytes < size_ ? bytes : size_;
        std::memcpy(&value, data_, taken);
        data_ += taken;
        size_ -= taken;
        return value;
    }
    unsigned byte() { return static_cast<unsigned>(number(1)); }
    bool flag() { return (number(1) & 1) != 0; }
    [[nodiscard]] bool empty() const { return size_ == 0; }

private:
    const std::uint8_t* data_;
    std::size_t size_;
};

constexpr std::uint64_t base = 0x1000;
constexpr std::size_t pages = 5;

/// Exactly as long as it must be, so that a sanitizer sees the first byte beyond.
class memory {
public:
    explicit memory(input& in) : words(pages * 512)
    {
        // A few entries, placed all over: an input of a hundred bytes is a forest of tables.
        std::uint64_t kept[8];
        for (std::uint64_t& k : kept) {
            k = in.number(8);
            // Mostly one of the pages, with the flags of the input.
            if ((k >> 56 & 3) != 0) k = (k & 0xfff) | (base + (k >> 12) % pages * 0x1000);
        }
        std::uint64_t state = in.number(4) | 1;
        for (std::uint64_t& w : words) {
            state = state * 6364136223846793005 + 1442695040888963407;
            w = kept[state >> 61];
        }
        while (!in.empty()) words[in.number(2) % words.size()] = in.number(8);
    }

    template <class Word>
    [[nodiscard]] Word* operator()(std::uint64_t physical, std::type_identity<Word>)
    {
        if (++asked_for > limit) std::abort();  // a walk without end
        if (physical < base || physical - base >= words.size() * 8) return nullptr;
        return reinterpret_cast<Word*>(reinterpret_cast<char*>(words.data()) + (physical - base));
    }

    // Five levels of five each, and again for each entry whose flags are set, and the update.
    static constexpr unsigned limit = 2000;
    unsigned asked_for = 0;
    std::vector<std::uint64_t> words;
};

void require(bool holds)
{
    if (!holds) std::abort();
}

/// As kernels read slots, without atomics that a fuzzer gains nothing from.
constexpr plain_access plainly{};

bool same(const walk_result& a, const walk_result& b)
{
    bool path = a.steps == b.steps;
    for (unsigned i = 0; path && i < a.steps; ++i) {
        path = a.path[i].slot_address == b.path[i].slot_address && a.path[i].entry == b.path[i].entry;
    }
    return path && a.fault == b.fault && a.level == b.level && a.address == b.address && a.page_shift == b.page_shift &&
           a.allowed == b.allowed && a.broken == b.broken && a.bits == b.bits && a.key_denies == b.key_denies;
}

template <class Format>
void look_at(const walk_result& r, const Format& format)
{
    require(r.steps <= max_levels);
    require(r.fault <= fault_kind::memory_absent);
    require(!r || (r.steps != 0 && (r.address >> max_physical_bits) == 0));
    for (unsigned i = 0; i < r.steps; ++i) require(r.level_of(i) >= 1 && r.level_of(i) <= format.tables().levels);
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
        const nested_result r =
            nested_walk(guest, q.root, host, host_root, q.address, q.what, q.cpu, m, update, plainly);
        if (r.where == dimension::host) look_at(r.host, host);
        require(r.guest.steps <= max_levels);
        if (update == update_flags::no) require(m.words == before);
    }
    m.words = before;
}

shadow_features shadow_from(input& in)
{
    const auto switches = static_cast<unsigned>(in.number(2));
    const auto on = [switches](unsigned index) { return (switches >> index & 1) != 0; };
    shadow_features f;
    f.levels = in.byte() % 6;  // 0 and 1 are wrong
    f.physical_bits = 30 + in.byte() % 24;
    f.execute_disable = on(0);
    f.gigabyte_pages = on(1);
    f.large_pages = on(2);
    f.pse36 = on(3);
    f.global_pages = on(4);
    f.protection_keys = on(5);
    f.hlat = on(6);
    f.reserved_bit_8 = on(7);
    if (on(8)) f.encryption_bit = in.byte();
    return f;
}

npt_features npt_from(input& in)
{
    const shadow_features s = shadow_from(in);
    npt_features f;
    f.levels = s.levels;
    f.physical_bits = s.physical_bits;
    f.execute_disable = s.execute_disable;
    f.gigabyte_pages = s.gigabyte_pages;
    f.large_pages = s.large_pages;
    f.pse36 = s.pse36;
    f.reserved_bit_8 = s.reserved_bit_8;
    f.guest_mode_execute_trap = s.hlat;
    f.encryption_bit = s.encryption_bit;
    return f;
}

ept_features ept_from(input& in)
{
    const auto switches = static_cast<unsigned>(in.number(2));
    const auto on = [switches](unsigned index) { return (switches >> index & 1) != 0; };
    ept_features f;
    f.levels = 3 + in.byte() % 3;  // 3 is wrong
    f.physical_bits = 30 + in.byte() % 24;
    f.accessed_dirty = on(0);
    f.execute_only = on(1);
    f.large_pages = on(2);
    f.gigabyte_pages = on(3);
    f.mode_based_execute = on(4);
    f.verify_guest_paging = on(5);
    f.paging_write = on(6);
    f.supervisor_shadow_stack = on(7);
    f.sub_page_write = on(8);
    f.suppress_ve = on(9);
    if (on(10)) f.software_accessed = in.byte();
    return f;
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
             .user_keys = (control_bits & 16) != 0,
             .supervisor_keys = (control_bits & 32) != 0,
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
        using format = shadow<shadow_features{.physical_bits = 40, .protection_keys = true}>;
        require(same(try_one(format{}, m, q), try_one(format_for(format::features()), m, q)));
        break;
    }
    case 4: {
        using format = ept<ept_features{.physical_bits = 40, .execute_only = false, .mode_based_execute = true}>;
        require(same(try_one(format{}, m, q), try_one(format_for(format::features()), m, q)));
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

#if defined(PTEBITS_FUZZ_MAIN)
#include <chrono>
#include <cstdio>
#include <random>

int main(int argc, char** argv)
{
    const int seconds = argc > 1 ? std::atoi(argv[1]) : 0;
    if (seconds < 1) {
        std::fprintf(stderr, "usage: walk SECONDS [SEED]\n");
        return 2;
    }
    std::mt19937_64 engine(argc > 2 ? static_cast<std::uint64_t>(std::atoll(argv[2])) : 1);
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
    unsigned long long inputs = 0;
    std::vector<std::uint8_t> data;
    while (std::chrono::steady_clock::now() < end) {
        data.resize(engine() % 400);
        for (std::uint8_t& byte : data) byte = static_cast<std::uint8_t>(engine());
        // Flags of entries: half of the inputs have present ones throughout.
        if (engine() % 2 == 0) {
            for (std::size_t i = 60; i < data.size(); i += 4) data[i] |= 0x07;
        }
        LLVMFuzzerTestOneInput(data.data(), data.size());
        ++inputs;
    }
    std::printf("%llu inputs, no finding\n", inputs);
    return 0;
}
#endif
