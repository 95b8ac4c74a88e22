// expect: ptebits: the tables of this shared tree stay, unless it is given a read section
// SPDX-License-Identifier: BSL-1.0
#include <cstdint>
#include <ptebits/formats/ept.hpp>
#include <ptebits/unmap.hpp>

using namespace ptebits;

constexpr auto host = ept<ept_features{}>;

struct memory {
    std::uint64_t* operator()(std::uint64_t) const { return nullptr; }
};
struct allocator {
    static optional_address allocate(unsigned) { return {}; }
    static void release(std::uint64_t, unsigned) {}
};
inline constexpr auto frozen = frozen_marker<std::uint64_t{1} << 60>(host);
struct readers {
    static void enter() {}
    static void leave() {}
    static void wait() {}
};

int main()
{
    flush_list_of<> list;
#ifdef PTEBITS_CONTROL
    tree t{host, 0x1000, memory{}, allocator{}, shared{frozen, readers{}}};
#else
    tree t{host, 0x1000, memory{}, allocator{}, shared{frozen}};
#endif
    return static_cast<bool>(prune(t, {}, list));
}
