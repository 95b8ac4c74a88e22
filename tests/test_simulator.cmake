# SPDX-License-Identifier: BSL-1.0
# What simulator prints, and how it ends:
#     cmake [-DEMULATOR=COMMAND] -DSIMULATOR=EXECUTABLE -DDATA=examples/data -DWORK=DIRECTORY -P tests/test_simulator.cmake
#
# The error codes, qualifications and entries were worked out from the manuals' tables.
cmake_minimum_required(VERSION 3.20)

get_filename_component(simulator "${SIMULATOR}" ABSOLUTE)
get_filename_component(data "${DATA}" ABSOLUTE)
file(MAKE_DIRECTORY ${WORK})

function(expect status out err)
    execute_process(
        COMMAND ${EMULATOR} ${simulator} ${ARGN}
        WORKING_DIRECTORY ${WORK}
        RESULT_VARIABLE actual_status
        OUTPUT_VARIABLE actual_out
        ERROR_VARIABLE actual_err
        INPUT_FILE ${WORK}/input
        TIMEOUT 60
    )
    foreach(what status out err)
        if(NOT "${actual_${what}}" STREQUAL "${${what}}")
            message("expected ${what}:\n${${what}}\ngot:\n${actual_${what}}")
            message(FATAL_ERROR "simulator ${ARGN}: ${what} is not as expected")
        endif()
    endforeach()
endfunction()

# A machine by its config; what it does with a script.
function(machine config)
    file(WRITE ${WORK}/machine.conf "${config}")
endfunction()
function(expect_run script out)
    file(WRITE ${WORK}/machine.script "${script}")
    expect(0 "${out}" "" machine.conf machine.script)
endfunction()

file(WRITE ${WORK}/input "")

# The sample: a guest in long mode on EPT with accessed and dirty bits.
expect(0
[[
load 400000: 0 at physical 220000, walk
load 400008: 0 at physical 220008, TLB
guest 400000:
  level 4 at 10000: 11027, L4->L3 table 0x1'1000 RWX user A
  level 3 at 11000: 12027, L3->L2 table 0x1'2000 RWX user A
  level 2 at 12010: 13027, L2->L1 table 0x1'3000 RWX user A
  level 1 at 13000: 8000000000020027, 4K leaf 0x2'0000 RW- user A
store 400000: 2a at physical 220000, walk
store 400008: 2b at physical 220008, TLB
guest 400000:
  level 4 at 10000: 11027, L4->L3 table 0x1'1000 RWX user A
  level 3 at 11000: 12027, L3->L2 table 0x1'2000 RWX user A
  level 2 at 12010: 13027, L2->L1 table 0x1'3000 RWX user A
  level 1 at 13000: 8000000000020067, 4K leaf 0x2'0000 RW- user A D
host 20000:
  level 4 at 3ff000: 3fe107, L4->L3 table 0x3f'e000 RWX A
  level 3 at 3fe000: 3fd107, L3->L2 table 0x3f'd000 RWX A
  level 2 at 3fd000: 2003b7, 2M leaf 0x20'0000 RWX WB A D
fetch 401000: 0 at physical 221000, walk
fetch 401ff8: 0 at physical 221ff8, TLB
store 401000: #PF, error code 7 (P, W, U), CR2 401000
fetch 400000: #PF, error code 15 (P, U, I/D), CR2 400000
load 500000: #PF, error code 4 (U), CR2 500000
load 800000000000: #GP, the address is not canonical
load ffff800000000000: #PF, error code 5 (P, U), CR2 ffff800000000000
load ffff800000000000: 0 at physical 222000, walk
load ffff800000000000: #PF, error code 5 (P, U), CR2 ffff800000000000
load 402000: EPT violation, qualification 181 (read, linear, final), guest-physical address 200000
load 402000: 0 at physical 100000, walk
store 402000: EPT violation, qualification 18a (write, R allowed, linear, final), guest-physical address 200000
load 402000: 0 at physical 100000, walk
fetch 402000: EPT violation, qualification 18c (fetch, R allowed, linear, final), guest-physical address 200000
load 402000: 0 at physical 100000, walk
load 402000: 0 at physical 100000, TLB
load 402000: EPT violation, qualification 181 (read, linear, final), guest-physical address 200000
load 402000: EPT misconfiguration, guest-physical address 200000, level 1: write without read
load 402000: EPT misconfiguration, guest-physical address 200000, level 1: illegal memory type
load 400000: EPT violation, qualification 83 (read, write, linear), guest-physical address 300000
load 401000: EPT violation, qualification 83 (read, write, linear), guest-physical address 300008
]]
    "" ${data}/machine-ept.conf ${data}/machine-ept.script)

# The same with a translation cache, and what it did.
file(READ ${data}/machine-ept.conf config)
machine("${config}translation_cache = on\n")
execute_process(COMMAND ${EMULATOR} ${simulator} ${data}/machine-ept.conf ${data}/machine-ept.script OUTPUT_VARIABLE out)
expect(0 "${out}translation cache: 21 walks; 15 from the guest's root, 25 of the host's tables, 14 in full\n" ""
    machine.conf ${data}/machine-ept.script)

# It keeps the entry that refers to a table until INVLPG, of any address; and translations of the host until a flush.
machine([[
memory = 1024
tlb = 1
guest = paging
host = npt
translation_cache = on
]])
expect_run([[
map host 0 0 2M rwx
map guest 200000 20000 4K rwu
map guest 201000 21000 4K rwu
map guest 202000 22000 4K rwu
load 200000
entry guest 2 200000 0
load 201000
invlpg 600000
load 202000
entry guest 2 200000 13027
load 202000
load 200000
entry host 2 0 83                       # not a user page
load 202000
flush
load 202000
]]
[[
load 200000: 0 at physical 20000, walk
load 201000: 0 at physical 21000, walk
load 202000: #PF, error code 0, CR2 202000
load 202000: 0 at physical 22000, walk
load 200000: 0 at physical 20000, walk
load 202000: 0 at physical 22000, walk
load 202000: #NPF, EXITINFO1 200000007 (P, W, U, guest table), EXITINFO2 10000
translation cache: 7 walks; 4 from the guest's root, 8 of the host's tables, 2 in full
]])

# Five levels, protection keys and SMEP on NPT.
machine([[
memory = 1024
guest = paging
guest.levels = 5
guest.user_keys = on
guest.gigabyte_pages = off
host = npt
host.physical_bits = 40
cpu.smep = on
]])

# A protection key holds at once, what the TLB has or not.
expect_run([[
map host 0 0 2M rwxu
map guest 200000 0 2M rwu
user
entry guest 2 200000 a8000000000000a7   # protection key 5
store 200018 5
cpu pkru 0x800                          # denies its writes
store 200018 6
load 200018
store 200018 6
cpu pkru 0x400                          # denies all of it
load 200018
fetch 200018
cpu pkru 0
store 200018 6
]]
[[
store 200018: 5 at physical 18, walk
store 200018: #PF, error code 27 (P, W, U, PK), CR2 200018
load 200018: 5 at physical 18, walk
store 200018: #PF, error code 27 (P, W, U, PK), CR2 200018
load 200018: #PF, error code 25 (P, U, PK), CR2 200018
fetch 200018: #PF, error code 15 (P, U, I/D), CR2 200018
store 200018: 6 at physical 18, walk
]])

# INVLPG drops all of a large page.
expect_run([[
map host 0 0 2M rwx
map guest 200000 0 2M rwu
load 200000
load 201000
entry guest 2 200000 0
load 201000
invlpg 3ff000
load 201000
load 200000
entry guest 3 200000 100000e7           # PS, and there are no 1-Gbyte pages
load 200000
]]
[[
load 200000: 0 at physical 0, walk
load 201000: 0 at physical 1000, walk
load 201000: 0 at physical 1000, TLB
load 201000: #PF, error code 0, CR2 201000
load 200000: #PF, error code 0, CR2 200000
load 200000: #PF, error code 9 (P, RSVD), CR2 200000
]])

# Rights of supervisor mode.
expect_run([[
map host 0 0 2M rwx
map guest 80000000 20000 4K rxu
map guest 80001000 21000 4K rw
fetch 80000000
store 80000000 1
cpu write_protect off
store 80000000 1
show guest 80000000
cpu write_protect on
store 80000000 2
cpu smap on
load 80000000
cpu alignment_check on
load 80000000
fetch 80001000
]]
[[
fetch 80000000: #PF, error code 11 (P, I/D), CR2 80000000
store 80000000: #PF, error code 3 (P, W), CR2 80000000
store 80000000: 1 at physical 20000, walk
guest 80000000:
  level 5 at 10000: 11027, L5->L4 table 0x1'1000 RWX user A
  level 4 at 11000: 12027, L4->L3 table 0x1'2000 RWX user A
  level 3 at 12010: 13027, L3->L2 table 0x1'3000 RWX user A
  level 2 at 13000: 14027, L2->L1 table 0x1'4000 RWX user A
  level 1 at 14000: 20065, 4K leaf 0x2'0000 R-X user A D
store 80000000: #PF, error code 3 (P, W), CR2 80000000
load 80000000: #PF, error code 1 (P), CR2 80000000
load 80000000: 1 at physical 20000, walk
fetch 80001000: #PF, error code 11 (P, I/D), CR2 80001000
]])

# Nested page faults: of the final address, and of the guest's page walk.
expect_run([[
map host 0 0 2M rwx
map guest 80001000 400000 4K rw
load 80001000
map host 400000 300000 4K rw
load 80001000
entry host 1 400000 300003              # not a user page
load 80001000
flush
load 80001000
entry host 1 400000 10000300007         # bit 40
store 80001000 1
entry host 1 400000 300005              # read only
store 80001000 1
map guest 80002000 401000 4K rwx
map host 401000 300000 4K rw
fetch 80002000
entry guest 2 80000000 500027           # the table is where no memory is
flush
load 80001000
show host 400000
]]
[[
load 80001000: #NPF, EXITINFO1 100000004 (U, final), EXITINFO2 400000
load 80001000: 0 at physical 300000, walk
load 80001000: 0 at physical 300000, TLB
load 80001000: #NPF, EXITINFO1 100000005 (P, U, final), EXITINFO2 400000
store 80001000: #NPF, EXITINFO1 10000000f (P, W, U, RSVD, final), EXITINFO2 400000
store 80001000: #NPF, EXITINFO1 100000007 (P, W, U, final), EXITINFO2 400000
fetch 80002000: #NPF, EXITINFO1 100000015 (P, U, I/D, final), EXITINFO2 401000
load 80001000: #NPF, EXITINFO1 200000006 (W, U, guest table), EXITINFO2 500008
host 400000:
  level 4 at 3ff000: 3fe027, L4->L3 table 0x3f'e000 RWX A
  level 3 at 3fe000: 3fd027, L3->L2 table 0x3f'd000 RWX A
  level 2 at 3fd010: 3fc027, L2->L1 table 0x3f'c000 RWX A
  level 1 at 3fc000: 300005, 4K leaf 0x30'0000 R-X
]])

# Two levels on EPT without accessed and dirty bits, with mode-based execute.
machine([[
memory = 1024
guest = paging
guest.levels = 2
host = ept
host.levels = 5
host.accessed_dirty = off
host.mode_based_execute = on
]])
expect_run([[
map host 0 200000 2M rwu
map guest c0000000 8000 4K rwxu
map guest 400000 0 4M rwx
load c0000008
store c0000008 9
show guest c0000000
show host 8000
user
fetch c0000000
kernel
fetch c0000000                          # XU, since user mode may use the page
user
fetch 400000
kernel
fetch 400000                            # X, not XU
load 408008
map host 400000 0 4K x
map guest c0001000 400000 4K rwxu
load c0001000
]]
[[
load c0000008: 0 at physical 208008, walk
store c0000008: 9 at physical 208008, walk
guest c0000000:
  level 2 at 10c00: 11027, L2->L1 table 0x1'1000 RWX user A
  level 1 at 11000: 8067, 4K leaf 0x8000 RWX user A D
host 8000:
  level 5 at 3ff000: 3fe407, L5->L4 table 0x3f'e000 RWX/X
  level 4 at 3fe000: 3fd407, L4->L3 table 0x3f'd000 RWX/X
  level 3 at 3fd000: 3fc407, L3->L2 table 0x3f'c000 RWX/X
  level 2 at 3fc000: 2004b3, 2M leaf 0x20'0000 RW-/X WB
fetch c0000000: 0 at physical 208000, TLB
fetch c0000000: 0 at physical 208000, TLB
fetch 400000: #PF, error code 5 (P, U), CR2 400000
fetch 400000: EPT violation, qualification 1dc (fetch, R allowed, W allowed, XU allowed, linear, final), guest-physical address 0
load 408008: 9 at physical 208008, walk
load c0001000: EPT violation, qualification 1a1 (read, X allowed, linear, final), guest-physical address 400000
]])

# PAE on PAE, a TLB of one entry, an encryption bit, which is no address bit.
machine([[
memory = 64
tlb = 1
guest = paging
guest.levels = 3
guest.execute_disable = off
host = npt
host.levels = 3
host.physical_bits = 48
host.encryption_bit = 47
]])
expect_run([[
map host 10000 10000 4K rwx
map host 11000 11000 4K rwx
map host 12000 12000 4K rwx
map host 0 2000 4K rwx
entry host 1 0 800000002007
map guest 0 0 4K rwx
map guest 1000 0 4K rwx
load 0
load 1000
load 0
load 0
flush
entry guest 3 0 11003                   # R/W is reserved in a PDPTE
load 0
]]
[[
load 0: 0 at physical 2000, walk
load 1000: 0 at physical 2000, walk
load 0: 0 at physical 2000, walk
load 0: 0 at physical 2000, TLB
load 0: #PF, error code 9 (P, RSVD), CR2 0
]])

# A guest whose paging is off.
machine([[
memory = 16
guest = none
host = npt
]])
expect_run([[
map host 0 1000 4K rwx
store 0 7
load 0
fetch 1000
map host 1000 ff000 4K r
load 1000
store 1000 1
]]
[[
store 0: 7 at physical 1000, walk
load 0: 7 at physical 1000, TLB
fetch 1000: #NPF, EXITINFO1 100000014 (U, I/D, final), EXITINFO2 1000
load 1000: no memory at physical ff000
store 1000: #NPF, EXITINFO1 100000007 (P, W, U, final), EXITINFO2 1000
]])

# Commands from standard input, comments and empty lines among them.
file(WRITE ${WORK}/input "map host 0 1000 4K rwx # all of it\n\n  # and\nload 8\n")
expect(0 "load 8: 0 at physical 1008, walk\n" "" machine.conf)
file(WRITE ${WORK}/input "map host 0 1000 4K rwx\nload 8\nhalt\nload 8\n")
expect(2 "load 8: 0 at physical 1008, walk\n" "standard input:3: unknown command 'halt'\n" machine.conf)
file(WRITE ${WORK}/input "")

# What a script must not say.
function(expect_bad_command command reason)
    file(WRITE ${WORK}/machine.script "${setup}${command}\n")
    expect(2 "" "machine.script:2: ${reason}\n" machine.conf machine.script)
endfunction()

set(setup "map host 0 1000 4K rwx\n")
expect_bad_command("load" "wrong number of words for load")
expect_bad_command("flush all" "wrong number of words for flush")
expect_bad_command("load 0g" "'0g' is not a number")
expect_bad_command("load -8" "'-8' is not a number")
expect_bad_command("load 10000000000000000" "'10000000000000000' is not a number")
expect_bad_command("load 4" "'4' is not aligned to 8 bytes")
expect_bad_command("map guest 0 0 4K r" "the guest has no tables")
expect_bad_command("map both 0 0 4K r" "'both' is neither host nor guest")
expect_bad_command("map host 0 0 4M r" "the format has no pages of '4M'")
expect_bad_command("map host 0 0 512G r" "no such entry at this level")
expect_bad_command("map host 0 1000 2M r" "the address is not aligned")
expect_bad_command("map host 0 10000000000000 4K r" "the address is too wide")
expect_bad_command("map host 0 0 4K -" "the format does not offer these permissions")
expect_bad_command("map host 0 0 4K rz" "rights are of rwxu, or -, not 'rz'")
expect_bad_command("entry host 5 0 0" "no entry of level 5 on the way")
expect_bad_command("entry host 0 0 0" "no entry of level 0 on the way")
expect_bad_command("cpu turbo on" "there is no 'turbo'")
expect_bad_command("cpu smep 1" "'1' is neither on nor off")
set(setup "map host 0 0 2M rwx\n")
expect_bad_command("map host 1000 0 4K r" "a larger page is mapped there")

machine("memory = 64\nguest = paging\nguest.levels = 2\nhost = ept\n")
expect_bad_command("entry guest 2 0 100000000" "the entry has fewer bits than 100000000")
set(setup "map host 0 0 4K rwx\n")
expect_bad_command("map guest 0 0 4K rwx" "the host does not map guest-physical 10000")

# What a config must not say.
function(expect_bad_config line reason config)
    machine("${config}")
    expect(2 "" "machine.conf${line}: ${reason}\n" machine.conf)
endfunction()

expect_bad_config("" "guest is missing" "# nothing\n")
expect_bad_config("" "host is missing" "guest = none\n")
expect_bad_config(":1" "not KEY = VALUE" "guest none\n")
expect_bad_config(":2" "unknown key 'cache'" "guest = none\ncache = 8\n")
expect_bad_config(":2" "guest is given twice" "guest = none\nguest = none\n")
expect_bad_config(":1" "guest is paging or none" "guest = arm\n")
expect_bad_config(":1" "host is ept or npt" "host = arm\n")
expect_bad_config(":1" "'15' is out of range" "memory = 15\n")
expect_bad_config(":1" "'0' is out of range" "tlb = 0\n")
expect_bad_config(":1" "'8' is neither on nor off" "translation_cache = 8\n")
expect_bad_config(":2" "translation_cache is given twice" "translation_cache = on\ntranslation_cache = off\n")
expect_bad_config(":1" "guest.tables is not the address of a page" "guest.tables = 10008\n")
expect_bad_config(":1" "host must come before host.levels" "host.levels = 5\n")
expect_bad_config(":2" "there is no 'accessed_dirty'" "host = npt\nhost.accessed_dirty = on\n")
expect_bad_config(":2" "'maybe' is neither on nor off" "host = ept\nhost.accessed_dirty = maybe\n")
expect_bad_config(":2" "'-1' is not a number" "host = ept\nhost.levels = -1\n")
expect_bad_config(":2" "a guest without paging has no features" "guest = none\nguest.levels = 4\n")
expect_bad_config(":2" "host: the format has no tables of so many levels" "guest = none\nhost = ept\nhost.levels = 3\n")
expect_bad_config(":1" "guest: the format does not have this physical-address width"
    "guest = paging\nguest.physical_bits = 53\nhost = ept\n")
expect_bad_config(":1" "host: the hardware uses the software bit"
    "host = ept\nhost.suppress_ve = on\nhost.accessed_dirty = off\nhost.software_accessed = 63\nguest = none\n")

expect(2 "" "absent.conf: cannot be opened\n" absent.conf)
machine("memory = 16\nguest = none\nhost = npt\n")
expect(2 "" "absent.script: cannot be opened\n" machine.conf absent.script)
expect(2 "" ".: cannot be read\n" .)

# The command line.
expect(2 "" "simulator: it takes CONFIG and perhaps SCRIPT; see simulator --help\n")
expect(2 "" "simulator: it takes CONFIG and perhaps SCRIPT; see simulator --help\n" a b c)
expect(2 "" "simulator: unknown option '-v'; see simulator --help\n" machine.conf -v)
execute_process(COMMAND ${EMULATOR} ${simulator} --help RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE err)
if(NOT status STREQUAL "0" OR NOT out MATCHES "^usage: simulator CONFIG" OR NOT err STREQUAL "")
    message(FATAL_ERROR "simulator --help: ${status}, ${out}${err}")
endif()
