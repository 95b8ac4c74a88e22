// SPDX-License-Identifier: BSL-1.0
// Reader of ELF core files with the memory of a machine: as QEMU's dump-guest-memory and libvirt write
// them, with the registers of each CPU, and as kernels give them after a crash, with VMCOREINFO.
//
// System V ABI, "ELF Header", "Program Header", "Note Section".
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "file.hpp"
#include "physical_memory.hpp"

namespace dump {

/// What a dump tells of a CPU.
struct cpu_state {
    std::uint64_t cr0 = 0;
    std::uint64_t cr3 = 0;
    std::uint64_t cr4 = 0;
    bool long_mode_code = false;  ///< its code segment is one of 64-bit code
};

/// What an ELF core says, beside the memory.
struct elf_core {
    bool x86_64 = false;  ///< the machine in the header; else it is i386
    std::vector<cpu_state> cpus;
    std::map<std::string, std::string, std::less<>> vmcoreinfo;
    std::vector<segment> segments;
};

/// A number in a structure: where it is, and its bytes.
struct elf_number {
    std::size_t offset = 0;
    std::size_t bytes = 0;

    template <class Bytes>
    [[nodiscard]] std::uint64_t in(const Bytes& structure) const
    {
        std::uint64_t value = 0;
        for (std::size_t i = bytes; i-- > 0;) value = value << 8 | static_cast<unsigned char>(structure[offset + i]);
        return value;
    }
};

/// Where numbers are in the structures of a class of ELF files.
struct elf_form {
    std::size_t header_bytes;
    elf_number program_headers, section_headers, program_header_bytes, program_header_count;
    std::size_t program_bytes;  // of a program header
    elf_number offset, physical, file_bytes;
    std::size_t section_bytes;  // of a section header
    elf_number section_info;
};
inline constexpr elf_form elf32{52, {28, 4}, {32, 4}, {42, 2}, {44, 2}, 32, {4, 4}, {12, 4}, {16, 4}, 40, {28, 4}};
inline constexpr elf_form elf64{64, {32, 8}, {40, 8}, {54, 2}, {56, 2}, 56, {8, 8}, {24, 8}, {32, 8}, 64, {44, 4}};

/// The same in both classes.
inline constexpr std::string_view elf_magic =
    "\x7f"
    "ELF";
inline constexpr elf_number elf_class{4, 1}, elf_byte_order{5, 1}, elf_type{16, 2}, elf_machine{18, 2};
inline constexpr elf_number program_type{0, 4};
inline constexpr std::uint64_t class_32 = 1, class_64 = 2, little_endian = 1, type_core = 4;
inline constexpr std::uint64_t machine_i386 = 3, machine_x86_64 = 62;
inline constexpr std::uint64_t segment_load = 1, segment_note = 4;
inline constexpr std::uint64_t count_is_elsewhere = 0xffff;  ///< PN_XNUM: the first section's header has it

/// A note: this header, the name with its NUL, what it holds; both padded to 4 bytes.
inline constexpr std::size_t note_header_bytes = 12;
inline constexpr elf_number note_name_bytes{0, 4}, note_bytes{4, 4};

/// QEMU's note of a CPU, version 1: general registers, then segments, then CR0 to CR4.
struct qemu_note {
    static constexpr std::string_view name = "QEMU";
    static constexpr std::size_t bytes = 432;  ///< at least
    static constexpr elf_number version{0, 4};
    static constexpr elf_number code_flags{160, 4};  ///< of CS, as in the upper half of a descriptor
    static constexpr std::uint64_t code_is_long = 1 << 21;
    static constexpr elf_number cr0{392, 8}, cr3{416, 8}, cr4{424, 8};
};

class elf_reader {
public:
    explicit elf_reader(file& from) : file_(from)
    {
        read_header();
        for (std::uint64_t n = 0; n < count_; ++n) read_segment(n);
        if (core_.segments.empty()) file_.fail(0, "an ELF core without memory");
    }

    [[nodiscard]] elf_core result() && { return std::move(core_); }

private:
    using buffer = std::array<char, 64>;

    void read_header()
    {
        const std::uint64_t smallest = elf32.header_bytes;
        if (file_.size() < smallest) file_.fail(file_.size(), "cut off in the ELF header");
        buffer header{};
        file_.read(0, header.data(), elf32.header_bytes);
        const std::uint64_t its_class = elf_class.in(header);
        if (its_class != class_32 && its_class != class_64) file_.fail(elf_class.offset, "no ELF class");
        form_ = its_class == class_32 ? &elf32 : &elf64;
        if (file_.size() < form_->header_bytes) file_.fail(file_.size(), "cut off in the ELF header");
        file_.read(0, header.data(), form_->header_bytes);
        if (elf_byte_order.in(header) != little_endian) file_.fail(elf_byte_order.offset, "not little-endian");
        if (elf_type.in(header) != type_core) file_.fail(elf_type.offset, "an ELF file, but no core: not a dump");
        const std::uint64_t machine = elf_machine.in(header);
        if (machine != machine_i386 && machine != machine_x86_64) {
            file_.fail(elf_machine.offset,
                       "the dump of a machine that is not x86 (ELF machine " + std::to_string(machine) + ')');
        }
        core_.x86_64 = machine == machine_x86_64;

        if (form_->program_header_bytes.in(header) != form_->program_bytes) {
            file_.fail(form_->program_header_bytes.offset, "program headers of a wrong size");
        }
        programs_ = form_->program_headers.in(header);
        count_ = form_->program_header_count.in(header);
        if (count_ == count_is_elsewhere) {
            const std::uint64_t sections = form_->section_headers.in(header);
            need(sections, form_->section_bytes, form_->section_headers.offset, "the first section header");
            buffer section{};
            file_.read(sections, section.data(), form_->section_bytes);
            count_ = form_->section_info.in(section);
        }
        need(programs_, count_ * form_->program_bytes, form_->program_headers.offset, "the program headers");
    }

    /// Whether bytes that something tells of are in the file.
    void need(std::uint64_t offset, std::uint64_t bytes, std::uint64_t told_at, const std::string& what) const
    {
        if (offset <= file_.size() && bytes <= file_.size() - offset) return;
        file_.fail(told_at, what + " at " + std::to_string(offset) + " would be " + std::to_string(bytes) +
                                " bytes, the file ends at " + std::to_string(file_.size()) + ": cut off?");
    }

    void read_segment(std::uint64_t number)
    {
        const std::uint64_t at = programs_ + number * form_->program_bytes;
        buffer header{};
        file_.read(at, header.data(), form_->program_bytes);
        const std::uint64_t type = program_type.in(header);
        if (type != segment_load && type != segment_note) return;
        const segment s{form_->physical.in(header), form_->file_bytes.in(header), form_->offset.in(header)};
        need(s.offset, s.bytes, at, "segment " + std::to_string(number));
        if (type == segment_note) {
            read_notes(s.offset, s.offset + s.bytes);
        } else if (s.bytes > ~s.physical) {
            file_.fail(at, "segment " + std::to_string(number) + " reaches over the end of all addresses");
        } else if (s.bytes != 0) {
            core_.segments.push_back(s);
        }
    }

    void read_notes(std::uint64_t at, std::uint64_t end)
    {
        const auto padded = [](std::uint64_t bytes) { return (bytes + 3) / 4 * 4; };
        while (end - at >= note_header_bytes) {
            std::array<char, note_header_bytes> header{};
            file_.read(at, header.data(), header.size());
            const std::uint64_t name_bytes = note_name_bytes.in(header);
            const std::uint64_t bytes = note_bytes.in(header);
            const std::uint64_t name_at = at + note_header_bytes;
            // The padding of the last note may be missing.
            if (padded(name_bytes) > end - name_at || bytes > end - name_at - padded(name_bytes)) {
                file_.fail(at, "a note that is longer than its segment");
            }
            const std::uint64_t content = name_at + padded(name_bytes);
            read_note(name_at, name_bytes, content, bytes);
            at = std::min(content + padded(bytes), end);
        }
    }

    void read_note(std::uint64_t name_at, std::uint64_t name_bytes, std::uint64_t at, std::uint64_t bytes)
    {
        char name[16] = {};
        if (name_bytes == 0 || name_bytes > sizeof name) return;
        file_.read(name_at, name, name_bytes);
        const std::string_view is(name, name_bytes - (name[name_bytes - 1] == '\0'));
        if (is == qemu_note::name) {
            read_cpu(at, bytes);
        } else if (is == "VMCOREINFO") {
            read_vmcoreinfo(at, bytes);
        }
    }

    void read_cpu(std::uint64_t at, std::uint64_t bytes)
    {
        std::array<char, qemu_note::bytes> note{};
        if (bytes < note.size()) file_.fail(at, "a note of a CPU that is too short");
        file_.read(at, note.data(), note.size());
        if (qemu_note::version.in(note) != 1) file_.fail(at, "a note of a CPU in another version than 1");
        core_.cpus.push_back({.cr0 = qemu_note::cr0.in(note),
                              .cr3 = qemu_note::cr3.in(note),
                              .cr4 = qemu_note::cr4.in(note),
                              .long_mode_code = (qemu_note::code_flags.in(note)&qemu_note::code_is_long) != 0});
    }

    /// Lines of NAME=VALUE.
    void read_vmcoreinfo(std::uint64_t at, std::uint64_t bytes)
    {
        constexpr std::uint64_t most = 65536;
        if (bytes > most) file_.fail(at, "VMCOREINFO of more than 64 Kbytes");
        std::string text(bytes, '\0');
        file_.read(at, text.data(), text.size());
        for (std::string_view rest = text; !rest.empty();) {
            const std::string_view line = rest.substr(0, rest.find('\n'));
            rest.remove_prefix(std::min(line.size() + 1, rest.size()));
            const std::size_t equals = line.find('=');
            if (equals != line.npos) core_.vmcoreinfo[std::string(line.substr(0, equals))] = line.substr(equals + 1);
        }
    }

    file& file_;
    const elf_form* form_ = nullptr;
    std::uint64_t programs_ = 0;  ///< where the program headers are
    std::uint64_t count_ = 0;
    elf_core core_;
};

}  // namespace dump
