// The library in one screen: formats, entries, ageing.
#include <ptebits/ptebits.hpp>

using namespace ptebits;

// A format is an object made of features. Its masks and shifts are constants.
constexpr auto host = ept<ept_features{.physical_bits = 46, .accessed_dirty = true}>;
static_assert(host->accessed.mask() == 0x100 && host->accessed.shift() == 8);
static_assert(host->reserved_mask(2, kind::leaf) == 0x000f'c000'001f'f000);
static_assert(available(host, 1ULL << 57 | 1ULL << 58));  // free for software, at every level

// Entries are made from fields, and held against the manual's rules.
constexpr std::uint64_t pte = host->address(1, 0x12'3456'7000) | host->read | host->write | host->memory_type(6);
static_assert(present(pte, host) && legal(pte, 1, host));
static_assert(diagnose(pte & ~host->read.mask(), 1, host).broken == rule::write_without_read);

// Ageing a live entry is one locked instruction, and only where the entry is young.
bool used_since(std::uint64_t& slot) { return age(slot, host); }

// A CPU without an accessed bit: the same question, answered by making the next access fault.
constexpr auto tracking = track_accesses<54>(ept<ept_features{.accessed_dirty = false}>);
bool used_since_tracked(std::uint64_t& slot) { return age(slot, tracking); }

// The same format where the CPU is known at run time only.
const auto cpu = format_for(ept_features{.physical_bits = 39, .accessed_dirty = false, .software_accessed = 63});
bool used_since_here(std::uint64_t& slot) { return age(slot, cpu); }

int main()
{
    std::uint64_t slot = pte | host->accessed;
    const bool first = used_since(slot);   // young, and cleared
    const bool second = used_since(slot);  // old
    const bool third = used_since_tracked(slot);
    slot = pte | cpu->accessed;
    return first && !second && third && used_since_here(slot) ? 0 : 1;
}
