// SPDX-License-Identifier: BSL-1.0
// A virtual CPU: the machine's world switch, and when it must forget translations. For any machine.
#pragma once

#include <cstdint>

#include "../hypervisor_mmu.hpp"
#include "output.hpp"

/// Why a guest stopped.
enum class ending {
    done,
    fault,        ///< of the second stage
    guest_fault,  ///< of the guest's own tables
    interrupted,
    other
};

struct guest_exit {
    ending how = ending::other;
    std::uint64_t address = 0;      ///< guest-physical; of a guest_fault virtual
    std::uint64_t reason = 0;       ///< of another exit, as the manual calls it
    machine::fault_code code = {};  ///< what hardware tells of a fault
    bool told = false;              ///< whether the library can read the code: `access` is then what it tells
    machine::access access = {};
};

/// How a guest is started.
struct guest_mode {
    std::uint64_t root = 0;  ///< of its own tables
    unsigned levels = 0;
};

// A virtual CPU that enters the guest takes note of the generation, and drops its translations if it is not the one
// that it knows.
inline hypervisor::shared_word generation{1};
// The generation that the virtual CPU entered with; 0: not in the guest.
inline hypervisor::shared_word entered_with;
inline bool leave_out_flushes = false;  // to see that it is noticed
inline std::uint64_t flushes = 0;

namespace machine {
/// Takes the other CPU out of its guest.
void interrupt_guest() noexcept;
}  // namespace machine

namespace hypervisor {

inline shared_word mmu_locked;

inline void lock_mmu() noexcept
{
    while (mmu_locked.exchange(1) != 0) machine::relax();
}
inline void unlock_mmu() noexcept { mmu_locked.store(0); }

inline void flush_tlbs() noexcept
{
    if (leave_out_flushes) return;
    ++flushes;
    const std::uint64_t wanted = generation.add(1) + 1;
    const auto inside = [&] {
        const std::uint64_t entered = entered_with.load();
        return entered != 0 && entered < wanted;
    };
    if (!inside()) return;
    machine::interrupt_guest();
    while (inside()) machine::relax();
}

}  // namespace hypervisor

template <class Machine>
class virtual_cpu {
public:
    void start(std::uint64_t host_root, const guest_mode& mode) { machine_.start(host_root, mode); }

    guest_exit run(guest_registers& r)
    {
        // Anew where a flush came between the look and the mark: it may not have seen the mark.
        std::uint64_t now = 0;
        do {
            now = generation.load();
            entered_with.store(now);
        } while (generation.load() != now);
        if (now != known_) machine_.flush();
        known_ = now;
        const guest_exit e = machine_.run(r);
        entered_with.store(0);
        return e;
    }

private:
    Machine machine_;
    std::uint64_t known_ = 0;
};
