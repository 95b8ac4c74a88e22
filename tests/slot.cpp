// Every slot operation against a one-line model, over all bits, both widths and all policies.
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <ptebits/slot.hpp>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

using namespace ptebits;

namespace {

constexpr std::uint64_t patterns[] = {
    0, ~std::uint64_t{0}, 0x8000'0000'0000'0001, 0x1234'5678'9abc'def0, 0x5555'5555'5555'5555, 0xaaaa'aaaa'aaaa'aaaa};

// The value that a policy sees in a slot, and the slot that holds a value for it.
template <class Word, class Access>
Word seen(const Word& slot, Access access)
{
    return load(slot, access);
}
template <class Word, class Access>
Word holding(Word value, Access access)
{
    Word slot = 0;
    store(slot, value, access);
    return slot;
}

template <class Word, class Access>
void check_one_bit(Word before, unsigned shift, Access access)
{
    const field f = bit(shift);
    const Word mask = static_cast<Word>(Word{1} << shift);
    const bool was = (before >> shift & 1) != 0;

    Word slot = holding(before, access);
    CHECK(test_and_set(slot, f, access) == was);
    CHECK(seen(slot, access) == static_cast<Word>(before | mask));

    slot = holding(before, access);
    CHECK(test_and_clear(slot, f, access) == was);
    CHECK(seen(slot, access) == static_cast<Word>(before & ~mask));

    slot = holding(before, access);
    set(slot, f, access);
    CHECK(seen(slot, access) == static_cast<Word>(before | mask));

    slot = holding(before, access);
    clear(slot, f, access);
    CHECK(seen(slot, access) == static_cast<Word>(before & ~mask));
}

template <class Word, class Access>
void check_values(Word before, Word other, Access access)
{
    Word slot = holding(before, access);
    CHECK(exchange(slot, other, access) == before);
    CHECK(seen(slot, access) == other);

    slot = holding(before, access);
    CHECK(test_and_set(slot, std::uint64_t{other}, access) == static_cast<Word>(before & other));
    CHECK(seen(slot, access) == static_cast<Word>(before | other));

    slot = holding(before, access);
    CHECK(test_and_clear(slot, std::uint64_t{other}, access) == static_cast<Word>(before & other));
    CHECK(seen(slot, access) == static_cast<Word>(before & ~other));

    slot = holding(before, access);
    set(slot, std::uint64_t{other}, access);
    CHECK(seen(slot, access) == static_cast<Word>(before | other));
    slot = holding(before, access);
    clear(slot, std::uint64_t{other}, access);
    CHECK(seen(slot, access) == static_cast<Word>(before & ~other));

    slot = holding(before, access);
    Word expected = before;
    CHECK(compare_exchange(slot, expected, other, access));
    CHECK(seen(slot, access) == other);
    expected = static_cast<Word>(~other);
    CHECK_FALSE(compare_exchange(slot, expected, before, access));
    CHECK(expected == other);
    CHECK(seen(slot, access) == other);

    slot = holding(before, access);
    const auto invert = [&](Word value) { return static_cast<Word>(value ^ other); };
    CHECK(update(slot, invert, access) == before);
    CHECK(seen(slot, access) == static_cast<Word>(before ^ other));
}

template <class Word, class Access>
void check_policy(Access access)
{
    for (const std::uint64_t pattern : patterns) {
        const Word before = static_cast<Word>(pattern);
        for (unsigned shift = 0; shift < 8 * sizeof(Word); ++shift) check_one_bit(before, shift, access);
        for (const std::uint64_t other : patterns) check_values(before, static_cast<Word>(other), access);
    }
}

// Every operation on a slot where it stands: whoever reaches beyond it meets what is there.
template <class Word, class Access>
void check_in_place(Word& slot, Access access)
{
    constexpr Word all = static_cast<Word>(~Word{0});
    store(slot, Word{0}, access);
    for (unsigned shift = 0; shift < 8 * sizeof(Word); ++shift) {
        const Word mask = static_cast<Word>(Word{1} << shift);
        CHECK_FALSE(test_and_set(slot, bit(shift), access));
        CHECK(load(slot, access) == mask);
        CHECK(test_and_clear(slot, bit(shift), access));
        set(slot, mask, access);
        clear(slot, mask, access);
        CHECK(load(slot, access) == 0);
    }
    CHECK(test_and_set(slot, std::uint64_t{all}, access) == 0);
    CHECK(test_and_clear(slot, std::uint64_t{all}, access) == all);
    CHECK(exchange(slot, 5, access) == 0);
    Word expected = 5;
    CHECK(compare_exchange(slot, expected, 6, access));
    CHECK_FALSE(compare_exchange(slot, expected, 7, access));
    CHECK(expected == 6);
    CHECK(update(slot, [](Word v) { return static_cast<Word>(v + 1); }, access) == 6);
    CHECK(load(slot, access) == 7);
}

// The same operations in a constant expression.
constexpr bool at_compile_time()
{
    std::uint64_t slot = 0x1007;
    set(slot, bit(9));
    bool good = test_and_clear(slot, bit(9)) && !test_and_set(slot, bit(63)) && test_and_clear(slot, bit(63));
    clear(slot, bits(2, 1));
    good = good && exchange(slot, 0x2000) == 0x1001 && load(slot) == 0x2000;
    std::uint64_t expected = 1;
    good = good && !compare_exchange(slot, expected, 7) && expected == 0x2000 && compare_exchange(slot, expected, 7);
    good = good && update(slot, [](std::uint64_t v) { return v << 4; }) == 7;
    store(slot, slot + 1);
    return good && slot == 0x71;
}
static_assert(at_compile_time());

}  // namespace

TEST_CASE_TEMPLATE("slot operations do to 8-byte slots what their one-line model does", Access, plain_access,
                   atomic_access<>, atomic_access<order::relaxed>, atomic_access<order::seq_cst>,
                   swapped_access<plain_access>, swapped_access<atomic_access<>>, little_endian_access<>)
{
    check_policy<std::uint64_t>(Access{});
}

TEST_CASE_TEMPLATE("slot operations do to 4-byte slots what their one-line model does", Access, plain_access,
                   atomic_access<>, atomic_access<order::relaxed>, atomic_access<order::seq_cst>,
                   swapped_access<plain_access>, swapped_access<atomic_access<>>, little_endian_access<>)
{
    check_policy<std::uint32_t>(Access{});
}

TEST_CASE_TEMPLATE("no operation touches memory next to its slot", Access, plain_access, atomic_access<>,
                   atomic_access<order::relaxed>, atomic_access<order::seq_cst>, swapped_access<atomic_access<>>)
{
#if defined(__linux__)
    // One page between two that nobody may touch, with slots at its two ends.
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    void* const mapped = mmap(nullptr, 3 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(mapped != MAP_FAILED);
    unsigned char* const start = static_cast<unsigned char*>(mapped) + page;
    REQUIRE(mprotect(start, page, PROT_READ | PROT_WRITE) == 0);
    check_in_place(*reinterpret_cast<std::uint32_t*>(start), Access{});
    check_in_place(*reinterpret_cast<std::uint32_t*>(start + page - 4), Access{});
    check_in_place(*reinterpret_cast<std::uint64_t*>(start), Access{});
    check_in_place(*reinterpret_cast<std::uint64_t*>(start + page - 8), Access{});
    CHECK(munmap(mapped, 3 * page) == 0);
#else
    MESSAGE("skipped: pages are protected on Linux only");
#endif
}

// Orders have no result that one thread sees.
template <order Order, int Load, int Store, int Update>
constexpr bool orders_are = detail::barriers_of<Order>::load == Load && detail::barriers_of<Order>::store == Store &&
                            detail::barriers_of<Order>::update == Update;
using detail::barrier;
static_assert(orders_are<order::relaxed, barrier::none, barrier::none, barrier::none>);
static_assert(orders_are<order::acq_rel, barrier::acquire, barrier::release, barrier::acq_rel>);
static_assert(orders_are<order::seq_cst, barrier::seq_cst, barrier::seq_cst, barrier::seq_cst>);

TEST_CASE("unsigned long and unsigned long long are both slots")
{
    unsigned long long a = 0;
    unsigned long b = 0;
    CHECK_FALSE(test_and_set(a, bit(63)));
    CHECK_FALSE(test_and_set(b, bit(63)));
    CHECK(a == b);
}

TEST_CASE("the swapped policy keeps the bytes of a slot in the other order")
{
    std::uint64_t slot = 0;
    store(slot, 0x0102'0304'0506'0708, swapped_access<>{});
    CHECK(slot == 0x0807'0605'0403'0201);
    CHECK_FALSE(test_and_set(slot, bit(63), swapped_access<>{}));
    CHECK(slot == 0x0807'0605'0403'0281);
}

TEST_CASE("update stores nothing where nothing changes")
{
    struct counting : plain_access {
        int* stores;
        bool compare_exchange(std::uint64_t& slot, std::uint64_t& expected, std::uint64_t desired) const
        {
            ++*stores;
            return plain_access::compare_exchange(slot, expected, desired);
        }
    };
    int stores = 0;
    std::uint64_t slot = 5;
    CHECK(update(slot, [](std::uint64_t v) { return v; }, counting{{}, &stores}) == 5);
    CHECK(stores == 0);
    CHECK(update(slot, [](std::uint64_t v) { return v + 1; }, counting{{}, &stores}) == 5);
    CHECK(stores == 1);
    CHECK(slot == 6);
}
