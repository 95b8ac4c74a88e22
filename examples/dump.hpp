// SPDX-License-Identifier: BSL-1.0
// What inspect reads, told apart by content, and the tables in it: where they begin, and by which features.
#pragma once

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/npt.hpp>
#include <ptebits/formats/shadow.hpp>
#include <ptebits/walk.hpp>
#include <ptebits/x86.hpp>
#include <ptebits/x86_registers.hpp>

#include "elf_core.hpp"
#include "features.hpp"
#include "file.hpp"
#include "image.hpp"
#include "numbers.hpp"
#include "physical_memory.hpp"
#include "registers.hpp"

namespace dump {

/// Tables, by what is known of the CPU.
struct tables {
    named::any_features features;
    std::uint64_t root = 0;
    ptebits::cpu_controls controls;
};

/// What the user says of an input, in place of what it tells itself.
struct choices {
    bool raw = false;
    std::uint64_t base = 0;  ///< physical address of the first byte of raw memory
    unsigned cpu = 0;
    std::optional<std::uint64_t> root = {};
    std::string format = {};  ///< empty: ordinary paging
    std::optional<unsigned> levels = {};
    std::optional<unsigned> physical_bits = {};
    std::vector<std::string> features = {};  ///< NAME=VALUE
    std::string host_format = {};  ///< npt or ept: the tables are a guest's, over the host's; empty: they are not
    std::uint64_t host_root = 0;

    [[nodiscard]] bool any() const
    {
        return raw || cpu != 0 || root || !format.empty() || levels || physical_bits || !features.empty() ||
               !host_format.empty();
    }
};

/// A guest's memory, as the host's tables map it.
class guest_memory : public physical_memory {
public:
    guest_memory(physical_memory& host, const tables& by) : host_(host)
    {
        std::visit(
            [&](const auto& features) {
                translate_ = [&host, by, format = ptebits::format_for(features)](std::uint64_t address) {
                    return ptebits::walk(format, by.root, address, {.user = true}, by.controls, host,
                                         ptebits::update_flags::no, slot_order{});
                };
            },
            by.features);
    }

    page* page_at(std::uint64_t number) override
    {
        const ptebits::walk_result there = translate_(number << frame_shift);
        return there ? host_.page_at(there.address >> frame_shift) : nullptr;
    }

private:
    physical_memory& host_;
    std::function<ptebits::walk_result(std::uint64_t)> translate_;
};

class input {
public:
    /// Finds the tables in a file. Throws error, and named::error for a feature that is none.
    input(file from, const choices& user) : file_(std::move(from)), choices_(user)
    {
        if (choices_.raw) {
            read_raw();
        } else {
            tell_apart();
        }
        if (!image_) over_host();
    }

    [[nodiscard]] const std::string& name() const noexcept { return file_.name(); }
    /// What the tables lie in: a guest's memory if they are over a host's.
    [[nodiscard]] physical_memory& memory() noexcept { return guest_ ? *guest_ : *memory_; }
    [[nodiscard]] const tables& found() const noexcept { return tables_; }
    [[nodiscard]] const std::optional<tables>& host() const noexcept { return host_; }
    [[nodiscard]] physical_memory& host_memory() noexcept { return *memory_; }
    /// The image, if the input is one.
    [[nodiscard]] const std::optional<ptimg::image>& image() const noexcept { return image_; }
    /// What the tables were found by, a line each.
    [[nodiscard]] const std::vector<std::string>& reasons() const noexcept { return reasons_; }

private:
    [[noreturn]] void fail(const std::string& reason) const { throw error(file_.name() + ": " + reason); }

    void tell_apart()
    {
        if (!file_.seekable()) return read_image();
        char head[64];
        const auto bytes = std::min<std::size_t>(file_.size(), sizeof head);
        file_.read(0, head, bytes);
        const std::string_view begins(head, bytes);
        if (begins.starts_with(elf_magic)) return read_elf();
        if (begins.starts_with("makedumpfile") || begins.starts_with("KDUMP   ")) {
            fail(
                "kdump's compressed format is not read: dump again without -z, -l or -s (virsh dump "
                "--memory-only --format elf; makedumpfile -E)");
        }
        if (begins.starts_with("EMiL")) {
            fail("LiME's format is not read: make a raw image (format=padded), then give --raw --root HEX");
        }
        const auto binary = [](char c) {
            const auto value = static_cast<unsigned char>(c);
            return value >= 0x7f || (value < ' ' && c != '\n' && c != '\r' && c != '\t');
        };
        if (std::any_of(begins.begin(), begins.end(), binary)) {
            fail("neither an ELF core nor a .ptimg: if it is raw memory, give --raw [--base HEX] --root HEX");
        }
        read_image();
    }

    // ---- .ptimg

    void read_image()
    {
        if (choices_.any()) fail("a .ptimg says itself what its tables are");
        image_ = ptimg::parse(file_.name(), file_.text());
        auto kept = std::make_unique<kept_memory>();
        for (const auto& [address, t] : image_->tables) {
            page& p = kept->add(address);
            const std::uint64_t offset = t.address % page_bytes;
            const auto copy = [offset](const auto& slots, auto* to) {
                to += offset / sizeof *to;
                for (const auto slot : slots) slot_order::store(*to++, slot);
            };
            copy(t.slots, p.words);
            copy(t.slots32, p.halves);
        }
        memory_ = std::move(kept);
        tables_ = {image_->features, image_->root, {}};
    }

    // ---- raw memory

    void read_raw()
    {
        if (!file_.seekable() || file_.size() == 0) fail("raw memory is a file of some bytes");
        if (file_.size() > ~choices_.base) fail("from --base the file reaches over the end of all addresses");
        memory_ = std::make_unique<file_memory>(file_, std::vector<segment>{{choices_.base, file_.size(), 0}});
        if (!choices_.root) fail("raw memory does not tell where its tables are: give --root HEX");
        by_hand();
    }

    /// The tables that the user gives.
    void by_hand()
    {
        tables_.features = named::format_named(choices_.format.empty() ? "x86" : choices_.format);
        set_features();
        set_root(*choices_.root);
        reasons_.emplace_back("root and format: the command line");
    }

    void set_features()
    {
        std::visit(
            [&](auto& f) {
                if (choices_.levels) f.levels = *choices_.levels;
                if (choices_.physical_bits) f.physical_bits = *choices_.physical_bits;
                for (const std::string& word : choices_.features) named::set_feature(f, word);
            },
            tables_.features);
    }

    /// The root in what CR3 or its like holds.
    void set_root(std::uint64_t held, const ptebits::cr3_controls& cpu = {})
    {
        tables_.root = root_in(held, tables_.features, cpu);
    }

    [[nodiscard]] std::uint64_t root_in(std::uint64_t held, const named::any_features& of,
                                        const ptebits::cr3_controls& cpu) const
    {
        return std::visit(
            [&](const auto& features) {
                const auto format = ptebits::format_for(features);
                if (const ptebits::defect d = format->wrong().what; d != ptebits::defect::none) fail(ptebits::name(d));
                if constexpr (requires { format->cache_disable; }) {
                    const ptebits::cr3_root r = ptebits::root_of_cr3(held, format, cpu);
                    if (!r) fail("root " + ptimg::hex(held) + ": " + ptebits::name(r.error) + ' ' + ptimg::hex(r.bits));
                    return r.root;
                } else {
                    // An address, or an EPT pointer of any other properties than the root's.
                    const std::uint64_t root = held & format->address_mask(1, ptebits::kind::leaf);
                    const std::uint64_t beside = ptebits::ones(frame_shift - 1, 0);
                    if ((held & ~(root | beside)) != 0) fail("root " + ptimg::hex(held) + ": wider than addresses are");
                    return root;
                }
            },
            of);
    }
    // ---- ELF

    void read_elf()
    {
        elf_core core = elf_reader(file_).result();
        memory_ = std::make_unique<file_memory>(file_, std::move(core.segments));
        if (choices_.root && !choices_.format.empty()) return by_hand();
        if (choices_.cpu < core.cpus.size()) {
            by_cpu(core);
        } else if (!core.cpus.empty() || choices_.cpu != 0) {
            fail("--cpu " + std::to_string(choices_.cpu) + ": the dump tells of " + std::to_string(core.cpus.size()) +
                 " CPUs");
        } else if (choices_.root) {
            by_hand();
        } else {
            by_vmcoreinfo(core);
        }
    }

    void by_cpu(const elf_core& core)
    {
        using namespace registers;
        const cpu_state& cpu = core.cpus[choices_.cpu];
        const std::string its = "CPU " + std::to_string(choices_.cpu) + " of " + std::to_string(core.cpus.size());
        if (!has(cpu.cr0, cr0::paging)) {
            if (choices_.root) return by_hand();
            fail(its + " has paging off: choose another by --cpu N, or give --root HEX");
        }
        const bool pae = has(cpu.cr4, cr4::physical_address_extension);
        const bool long_mode = pae && (core.x86_64 || cpu.long_mode_code);
        const unsigned levels = long_mode ? (has(cpu.cr4, cr4::five_levels) ? 5 : 4) : pae ? 3 : 2;
        // EFER is in no note. Where NXE is off, no entry has the bit, so that it may be taken as on.
        tables_.features = features_of(levels, cpu.cr4, efer::execute_disable.mask());
        tables_.controls = {.write_protect = has(cpu.cr0, cr0::write_protect),
                            .smep = has(cpu.cr4, cr4::smep),
                            .smap = has(cpu.cr4, cr4::smap),
                            .alignment_check = true,
                            .lass = has(cpu.cr4, cr4::lass)};
        reasons_.push_back(its + ": CR0 " + ptimg::hex(cpu.cr0) + ", CR3 " + ptimg::hex(cpu.cr3) + ", CR4 " +
                           ptimg::hex(cpu.cr4));
        if (pae) {
            reasons_.emplace_back(!long_mode    ? "PAE, not long mode: the ELF machine is i386"
                                  : core.x86_64 ? "long mode: CR4.PAE, and the ELF machine is x86-64"
                                                : "long mode: the CPU runs 64-bit code");
        }
        reasons_.emplace_back("EFER.NXE and MAXPHYADDR: dumps tell neither, taken as on and 52");
        set_features();
        set_root(choices_.root.value_or(cpu.cr3), {.pcide = has(cpu.cr4, cr4::pcide), .linear_address_mask = true});
        if (choices_.root) reasons_.emplace_back("root: the command line");
    }

    /// The kernel's own tables, by what Linux tells of itself.
    void by_vmcoreinfo(const elf_core& core)
    {
        const auto value = [&](std::string_view key, int base) -> std::optional<std::uint64_t> {
            const auto found = core.vmcoreinfo.find(key);
            if (found == core.vmcoreinfo.end()) return std::nullopt;
            std::string_view text = found->second;
            const bool negative = text.starts_with('-');
            if (negative) text.remove_prefix(1);
            const auto number = numbers::parse<std::uint64_t>(text, base);
            if (!number) fail("VMCOREINFO: " + std::string(key) + " is no number: " + named::in_quotes(text));
            return negative ? 0 - *number : *number;
        };
        auto symbol = value("SYMBOL(init_top_pgt)", 16);
        if (!symbol) symbol = value("SYMBOL(swapper_pg_dir)", 16);
        const auto phys_base = value("NUMBER(phys_base)", 10);
        if (!symbol || !phys_base) {
            fail("tells no CR3 (no CPU notes by QEMU, no kernel's VMCOREINFO): give --root HEX --format FORMAT");
        }
        constexpr std::uint64_t kernel_image = 0xffff'ffff'8000'0000;  // where Linux maps it
        ptebits::shadow_features f{.levels = value("NUMBER(pgtable_l5_enabled)", 10).value_or(0) != 0 ? 5U : 4U};
        if (const std::uint64_t c = value("NUMBER(sme_mask)", 10).value_or(0); c != 0) {
            f.encryption_bit = static_cast<unsigned>(std::countr_zero(c));
        }
        tables_.features = f;
        set_features();
        set_root(*symbol - kernel_image + *phys_base);
        reasons_.emplace_back("the kernel's own tables, by VMCOREINFO");
    }

    // ---- two stages

    void over_host()
    {
        if (choices_.host_format.empty()) return;
        if (!choices_.root) fail("--" + choices_.host_format + " needs the guest's CR3: give --root HEX");
        if (!std::holds_alternative<ptebits::shadow_features>(tables_.features)) {
            fail("a guest's tables are those of ordinary paging");
        }
        tables t;
        t.features = named::format_named(choices_.host_format);
        t.root = root_in(choices_.host_root, t.features, {});
        host_ = t;
        guest_ = std::make_unique<guest_memory>(*memory_, *host_);
        reasons_.push_back("the guest's memory: the " + choices_.host_format + " tables at " + ptimg::hex(host_->root));
    }

    file file_;
    choices choices_;
    std::unique_ptr<physical_memory> memory_;
    std::unique_ptr<physical_memory> guest_;
    tables tables_;
    std::optional<tables> host_;
    std::optional<ptimg::image> image_;
    std::vector<std::string> reasons_;
};

}  // namespace dump
