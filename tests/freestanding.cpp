// All headers as a kernel has them: no hosted library, no exceptions, no RTTI, general
// registers only. Linked with -nostdlib, so that whatever else it needs shows.
#include <ptebits/ptebits.hpp>

using namespace ptebits;

namespace {

using host = ept<ept_features{}>;
using tracked = access_tracking<ept<ept_features{.accessed_dirty = false}>, 54>;

std::uint64_t table[512];

int failures()
{
    // Through volatile, so that nothing here is decided by the compiler.
    volatile unsigned physical_bits = 46;
    const auto format = format_for(ept_features{.physical_bits = physical_bits});
    const masks m = masks::from({.present = 0x7, .accessed = format.accessed.mask()});

    const encoded page = encode(kind::leaf, 1, 0x1000, {}, format);
    if (!page || !legal(page.entry, 1, format)) return 1;
    std::uint64_t& slot = table[7];
    slot = page.entry | format.accessed;
    if (!age(slot, host{}) || !mark_accessed(slot, format) || !age(slot, m)) return 2;
    if (!age(slot, tracked{}) || !restore(slot, tracked{})) return 3;
    if (age_table(table, host{}).count() != 0) return 4;
    if (!needs_flush(page.entry, 0, format) || !available(std::uint64_t{1} << 57, format)) return 5;
    return unmap(slot, host{}) == 0;
}

}  // namespace

// What compilers call on their own, as every kernel has it.
extern "C" {
void* memset(void* to, int value, std::size_t size)
{
    for (std::size_t i = 0; i < size; ++i)
        static_cast<volatile unsigned char*>(to)[i] = static_cast<unsigned char>(value);
    return to;
}
void* memcpy(void* to, const void* from, std::size_t size)
{
    for (std::size_t i = 0; i < size; ++i) {
        static_cast<volatile unsigned char*>(to)[i] = static_cast<const unsigned char*>(from)[i];
    }
    return to;
}

[[noreturn]] void _start()
{
    const long status = failures();
    for (;;) asm volatile("syscall" ::"a"(60L), "D"(status) : "rcx", "r11", "memory");
}
}
