// expect: ptebits: merging needs memory.flush(), or A and D that are set meanwhile would be lost
// SPDX-License-Identifier: BSL-1.0
#include <cstdint>
#include <ptebits/formats/ept.hpp>
#include <ptebits/protect.hpp>

using namespace ptebits;

constexpr auto host = ept<ept_features{}>;

struct memory {
    std::uint64_t* operator()(std::uint64_t) const { return nullptr; }
#ifdef PTEBITS_CONTROL
    static void flush(const flush_item&) {}
#endif
};
struct allocator {
    static optional_address allocate(unsigned) { return {}; }
    static void release(std::uint64_t, unsigned) {}
};

int main()
{
    flush_list_of<> list;
    tree t{host, 0x1000, memory{}, allocator{}};
    return static_cast<bool>(merge_pages(t, {}, 30, list));
}
