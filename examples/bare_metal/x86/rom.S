# SPDX-License-Identifier: BSL-1.0
# The last 512 bytes of a ROM of 512 KiB, under 4 GiB: from the reset vector to the kernel, that the ROM begins with and
# that runs at 1 MiB. So an emulator needs no BIOS, no disk and no boot loader.
.set rom_bytes, 512 * 1024
.set tail_bytes, 512
.section .rom, "ax"
.code16
tail:
    cli
    cld
    lgdtl %cs:(0x10000 - tail_bytes + 2f - tail)
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $8, $(0x100000 - tail_bytes + 3f - tail)  # the same ROM under 1 MiB
    .align 8
1:  .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
2:  .word 23
    .long 0x100000 - tail_bytes + 1b - tail
    .code32
3:  movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    inb $0x92, %al                                  # A20
    orb $2, %al
    andb $0xfe, %al
    outb %al, $0x92
    movl $-rom_bytes, %esi
    movl $0x100000, %edi
    movl $((rom_bytes - tail_bytes) / 4), %ecx
    rep movsl
    xorl %ebx, %ebx
    movl $0x100000, %eax
    jmp *%eax
    .code16
    .org tail_bytes - 16, 0x90                      # where a CPU begins
    .byte 0xe9
    .word 0x10000 - (tail_bytes - 16 + 3)
    .org tail_bytes, 0x90
.section .note.GNU-stack, "", @progbits
