// SPDX-License-Identifier: BSL-1.0
// Dumps made by hand: an ELF core with segments and notes, of either class, that tells the truth or not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "elf_core.hpp"

namespace built {

/// Sets a number of a structure.
inline void put(std::string& bytes, const dump::elf_number& where, std::uint64_t value)
{
    for (std::size_t i = 0; i < where.bytes; ++i) bytes.at(where.offset + i) = static_cast<char>(value >> 8 * i & 0xff);
}

/// A note with its padding.
inline std::string note(const std::string& name, const std::string& content)
{
    std::string bytes(dump::note_header_bytes, '\0');
    put(bytes, dump::note_name_bytes, name.size() + 1);
    put(bytes, dump::note_bytes, content.size());
    const auto add = [&](std::string part) {
        part.resize((part.size() + 3) / 4 * 4);
        bytes += part;
    };
    add(name + '\0');
    add(content);
    return bytes;
}

/// QEMU's note of a CPU.
inline std::string cpu(std::uint64_t cr0, std::uint64_t cr3, std::uint64_t cr4, bool long_code = false)
{
    std::string content(dump::qemu_note::bytes, '\0');
    put(content, dump::qemu_note::version, 1);
    put(content, dump::qemu_note::code_flags, long_code ? dump::qemu_note::code_is_long : 0);
    put(content, dump::qemu_note::cr0, cr0);
    put(content, dump::qemu_note::cr3, cr3);
    put(content, dump::qemu_note::cr4, cr4);
    return note(std::string(dump::qemu_note::name), content);
}

/// A piece of memory.
struct piece {
    std::uint64_t physical = 0;
    std::string bytes;
};

struct elf {
    bool wide = true;
    std::uint64_t machine = dump::machine_x86_64;
    std::string notes = {};
    std::vector<piece> pieces = {};
    bool count_elsewhere = false;  ///< the number of segments is in a section header

    [[nodiscard]] const dump::elf_form& form() const { return wide ? dump::elf64 : dump::elf32; }

    /// Where a program header is.
    [[nodiscard]] std::size_t program(std::size_t number) const
    {
        return form().header_bytes + form().section_bytes + number * form().program_bytes;
    }

    /// The file: header, a section header, program headers (notes first), notes, memory.
    [[nodiscard]] std::string file() const
    {
        const dump::elf_form& f = form();
        const std::size_t count = pieces.size() + 1;
        std::string all(program(count), '\0');
        all.replace(0, dump::elf_magic.size(), dump::elf_magic);
        put(all, dump::elf_class, wide ? dump::class_64 : dump::class_32);
        put(all, dump::elf_byte_order, dump::little_endian);
        put(all, dump::elf_type, dump::type_core);
        put(all, dump::elf_machine, machine);
        put(all, f.program_headers, program(0));
        put(all, f.section_headers, f.header_bytes);
        put(all, f.program_header_bytes, f.program_bytes);
        put(all, f.program_header_count, count_elsewhere ? dump::count_is_elsewhere : count);
        std::string section(f.section_bytes, '\0');
        put(section, f.section_info, count);
        all.replace(f.header_bytes, section.size(), section);
        const auto add = [&](std::size_t number, std::uint64_t type, std::uint64_t physical, const std::string& bytes) {
            std::string header(f.program_bytes, '\0');
            put(header, dump::program_type, type);
            put(header, f.offset, all.size());
            put(header, f.physical, physical);
            put(header, f.file_bytes, bytes.size());
            all.replace(program(number), header.size(), header);
            all += bytes;
        };
        add(0, dump::segment_note, 0, notes);
        for (std::size_t i = 0; i < pieces.size(); ++i)
            add(i + 1, dump::segment_load, pieces[i].physical, pieces[i].bytes);
        return all;
    }
};

/// Memory of zeros with entries in it.
class tables {
public:
    explicit tables(std::size_t bytes) : bytes_(bytes, '\0') {}
    tables& entry(std::uint64_t address, std::uint64_t value, std::size_t size = 8)
    {
        put(bytes_, {address, size}, value);
        return *this;
    }
    [[nodiscard]] const std::string& bytes() const { return bytes_; }

private:
    std::string bytes_;
};

}  // namespace built
