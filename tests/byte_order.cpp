// Guest memory has its own order of bytes: entries are little-endian, whatever the host. Here
// tables stand in memory byte by byte, in both orders, one of which is not the host's: who
// goes by the host's instead of the access policy's finds other entries in one of the two.
#include <doctest/doctest.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>

#include <ptebits/ptebits.hpp>

using namespace ptebits;

namespace {

enum class bytes_first : std::uint8_t { lowest, highest };

constexpr std::size_t size = 0x10000;

// Memory of 64 Kbytes from physical address 0 up, filled and looked at in bytes.
template <class Word>
struct byte_memory {
    bytes_first written;
    std::unique_ptr<Word[]> words = std::make_unique<Word[]>(size / sizeof(Word));

    Word* operator()(std::uint64_t physical) const
    {
        return physical < size ? &words[physical / sizeof(Word)] : nullptr;
    }
    [[nodiscard]] Word get(std::uint64_t physical) const
    {
        unsigned char bytes[sizeof(Word)] = {};
        std::memcpy(bytes, &words[physical / sizeof(Word)], sizeof(Word));
        std::uint64_t value = 0;
        for (unsigned i = 0; i < sizeof(Word); ++i) value |= std::uint64_t{bytes[place(i)]} << 8 * i;
        return static_cast<Word>(value);
    }
    void put(std::uint64_t physical, std::uint64_t value)
    {
        unsigned char bytes[sizeof(Word)] = {};
        for (unsigned i = 0; i < sizeof(Word); ++i) bytes[place(i)] = static_cast<unsigned char>(value >> 8 * i);
        std::memcpy(&words[physical / sizeof(Word)], bytes, sizeof(Word));
    }

private:
    [[nodiscard]] unsigned place(unsigned i) const
    {
        return written == bytes_first::lowest ? i : static_cast<unsigned>(sizeof(Word)) - 1 - i;
    }
};

template <class Base>
using big_endian_access = std::conditional_t<std::endian::native == std::endian::little, swapped_access<Base>, Base>;

// Four tables from 0x1000 up; the lowest maps the first 2 Mbytes to 0x10'0000 up.
template <class Format>
void map(byte_memory<std::uint64_t>& memory, const Format& format)
{
    for (unsigned level = 4; level > 1; --level) {
        const std::uint64_t at = std::uint64_t{5 - level} * 0x1000;
        memory.put(at, encode(kind::table, level, at + 0x1000, {}, format).entry);
    }
    for (unsigned i = 0; i < 512; ++i) {
        memory.put(0x4000 + i * 8, encode(kind::leaf, 1, 0x10'0000 + i * 0x1000, {}, format).entry);
    }
}

template <class Access, class Format>
void use_tables(bytes_first written, const Format& format)
{
    constexpr Access how{};
    byte_memory<std::uint64_t> memory{written};
    map(memory, format);
    const std::uint64_t accessed = format->accessed.mask();
    const std::uint64_t dirty_bit = format->dirty.mask();
    const std::uint64_t leaf = memory.get(0x4000 + 8 * 7);
    constexpr memory_access write{.what = operation::write, .user = true};
    constexpr memory_access read{.user = true};

    const walk_result r = walk(format, 0x1000, 0x7123, write, {}, memory, update_flags::yes, how);
    CHECK(r.address == 0x10'7123);
    CHECK(memory.get(0x4000 + 8 * 7) == (leaf | accessed | dirty_bit));
    CHECK((memory.get(0x1000) & accessed) == accessed);

    const std::uint64_t addresses[] = {0x1000, 0x2000};
    walk_result results[2];
    walk_batch(format, 0x1000, addresses, 2, read, {}, memory, results, update_flags::yes, how);
    CHECK(results[0].address == 0x10'1000);
    CHECK(results[1].address == 0x10'2000);
    CHECK(nested_walk(unpaged{}, 0, format, 0x1000, 0x3000, read, {}, memory, update_flags::yes, how).address() ==
          0x10'3000);

    unsigned leaves_seen = 0;
    const auto look = [&](const auto& e) {
        leaves_seen += e.level == 1 && present(e.entry, format);
        return visit_next::into;
    };
    CHECK(visit(format, 0x1000, {}, memory, look, nullptr, how).entered == 4);
    CHECK(leaves_seen == 512);
    unsigned mappings = 0;
    for_each_mapping(format, 0x1000, {}, memory, [&](const mapping& m) { mappings += m.bytes == 0x20'0000; }, how);
    CHECK(mappings == 1);

    std::uint64_t reported = 0;
    const auto report = [&](std::uint64_t address, std::uint64_t) { reported |= std::uint64_t{1} << (address >> 12); };
    age_range(format, 0x1000, {}, memory, report, subtrees::all, how);
    CHECK(reported == 0b1000'1110);
    reported = 0;
    harvest_range(format, 0x1000, {}, memory, report, how);
    CHECK(reported == 0b1000'0000);
    CHECK(memory.get(0x4000 + 8 * 7) == leaf);

    auto& lowest = *reinterpret_cast<std::uint64_t(*)[512]>(memory(0x4000));
    CHECK(mark_accessed(lowest[100], format, how));
    CHECK(memory.get(0x4000 + 8 * 100) == (encode(kind::leaf, 1, 0x16'4000, {}, format).entry | accessed));
    CHECK(age_table(lowest, format, how).count() == 1);
    CHECK(write_protect_table(lowest, format, how).count() == 512);
    CHECK_FALSE(writable(memory.get(0x4000 + 8 * 100), format));

    memory.put(0x2000, encode(kind::leaf, 3, 0x4000'0000, {}, format).entry | accessed);
    CHECK(split_live(*memory(0x2000), 3, memory(0x5000), 0x5000, format, 0, how) == split_error::none);
    CHECK(memory.get(0x5000 + 8) == (encode(kind::leaf, 2, 0x4020'0000, {}, format).entry | accessed));
    CHECK(memory.get(0x2000) == (encode(kind::table, 3, 0x5000, {}, format).entry | accessed));
}

template <template <class> class In>
void use_both(bytes_first written)
{
    constexpr auto guest = shadow<shadow_features{}>;
    use_tables<In<plain_access>>(written, guest);
    use_tables<In<atomic_access<>>>(written, guest);
    use_tables<In<atomic_access<>>>(written, format_for(ept_features{}));

    // Two levels: entries of 4 bytes.
    constexpr auto narrow = shadow<shadow_features{.levels = 2}>;
    byte_memory<std::uint32_t> memory{written};
    memory.put(0x1000 + 4, encode(kind::table, 2, 0x2000, {}, narrow).entry);
    memory.put(0x2000 + 8, encode(kind::leaf, 1, 0x8765'4000, {}, narrow).entry);
    constexpr memory_access write{.what = operation::write, .user = true};
    CHECK(walk(narrow, 0x1000, 0x40'2010, write, {}, memory, update_flags::yes, In<plain_access>{}).address ==
          0x8765'4010);
    CHECK(memory.get(0x1000 + 4) == 0x2027);
    CHECK(memory.get(0x2000 + 8) == 0x8765'4067);
}

}  // namespace

TEST_CASE("little-endian entries are reached by little_endian_access on every host")
{
    use_both<little_endian_access>(bytes_first::lowest);
}

TEST_CASE("entries of the other order are reached by the other policy")
{
    use_both<big_endian_access>(bytes_first::highest);
}

TEST_CASE("access tracking goes by the policy, too")
{
    constexpr auto tracking = track_accesses<54>(ept<ept_features{.accessed_dirty = false}>);
    byte_memory<std::uint64_t> memory{bytes_first::highest};
    memory.put(0, 0x1007);
    CHECK(age(*memory(0), tracking, big_endian_access<atomic_access<>>{}));
    CHECK(memory.get(0) == tracking.tracked(0x1007));
    CHECK(restore(*memory(0), tracking, big_endian_access<atomic_access<>>{}));
    CHECK(memory.get(0) == 0x0080'0000'0000'1005);  // it was writable
}
