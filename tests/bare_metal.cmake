# SPDX-License-Identifier: BSL-1.0
# Boots a kernel of examples/bare_metal in an emulator, and compares what it sends:
#     cmake -DROM=FILE -DEMULATOR=qemu|bochs|qemu-riscv64 [-DCPU=MODEL] [-DOPTIONS=WORDS] [-DEXPECTED=FILES | -DSAYS=REGEX]
#           [-DFAILS=ON] [-DPICTURE=PROGRAM] -DWORK=DIRECTORY -P tests/bare_metal.cmake
# FAILS: the kernel has to find what is wrong. Of several EXPECTED one has to
# fit. Lines that begin with ~ depend on the compiler and are left out.
cmake_minimum_required(VERSION 3.20)

file(MAKE_DIRECTORY ${WORK})
if(DEFINED COMPILER AND NOT COMPILER)
    message("skipped: there is no riscv64-linux-gnu-g++")
    return()
endif()
if(EMULATOR STREQUAL "bochs")
    find_program(PROGRAM bochs-bin)
elseif(EMULATOR STREQUAL "qemu")
    find_program(PROGRAM qemu-system-x86_64)
    set(machine -machine pc -cpu max -device isa-debug-exit,iobase=0xf4,iosize=4)
else()
    find_program(PROGRAM qemu-system-riscv64)
    if(NOT CPU)
        set(CPU rv64)
    endif()
    set(machine -machine virt -cpu ${CPU} -bios none)
endif()
if(NOT PROGRAM)
    message("skipped: there is no ${EMULATOR}")
    return()
endif()

if(NOT EMULATOR STREQUAL "bochs")
    # -icount: as many instructions in each run. Two CPUs run freely.
    set(how -icount shift=0)
    if(OPTIONS)
        set(how -smp 2 -append "${OPTIONS}")
    endif()
    execute_process(
        COMMAND
            ${PROGRAM} -accel tcg ${machine} -m 64 -display none -nodefaults -no-reboot -kernel ${ROM} ${how} -serial stdio
        RESULT_VARIABLE status
        OUTPUT_VARIABLE out
        ERROR_VARIABLE err
        TIMEOUT 120
    )
    # A triple fault ends with 0: 33 alone is success.
    set(expected_status 33)
    if(FAILS)
        set(expected_status 35)
    endif()
    if(NOT status STREQUAL "${expected_status}")
        message(FATAL_ERROR "QEMU: ${status}\n${out}\n${err}")
    endif()
else()
    file(
        WRITE ${WORK}/bochsrc
        "config_interface: textconfig\n"
        "display_library: term\n"
        "cpu: model=${CPU}, count=1, ips=100000000, reset_on_triple_fault=0\n"
        "memory: guest=64, host=64\n"
        "romimage: file=${ROM}, address=0xfff80000\n"
        "clock: sync=none\n"
        "com1: enabled=1, mode=file, dev=${WORK}/serial\n"
        "log: ${WORK}/log\n"
        "panic: action=fatal\nerror: action=report\ninfo: action=report\ndebug: action=ignore\n"
        "mouse: enabled=0\n"
        "plugin_ctrl: speaker=0, gameport=0, parallel=0, extfpuirq=0\n"
        "sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy\n"
    )
    file(WRITE ${WORK}/commands "c\nq\n")
    file(WRITE ${WORK}/serial "")
    # Its status is 1 in any case: what is sent tells how it ended.
    execute_process(
        COMMAND ${CMAKE_COMMAND} -E env TERM=dumb ${PROGRAM} -q -f ${WORK}/bochsrc -rc ${WORK}/commands
        WORKING_DIRECTORY ${WORK}
        RESULT_VARIABLE status
        OUTPUT_VARIABLE screen
        ERROR_VARIABLE screen
        TIMEOUT 120
    )
    file(READ ${WORK}/serial out)
endif()

string(REPLACE "\r" "" out "${out}")
file(WRITE ${WORK}/serial.txt "${out}")
message("${out}")
set(verdict PASSED)
if(FAILS)
    set(verdict FAILED)
endif()
if(NOT out MATCHES "\n${verdict}\n$")
    message(FATAL_ERROR "${EMULATOR} did not end with ${verdict}: ${status}\n${screen}")
endif()
if(EXPECTED)
    string(REGEX REPLACE "~[^\n]*\n" "" out "${out}")
    set(fits OFF)
    foreach(file ${EXPECTED})
        file(READ ${file} expected)
        if(out STREQUAL expected)
            set(fits ON)
        endif()
    endforeach()
    if(NOT fits)
        file(WRITE ${WORK}/sent.txt "${out}")
        message(FATAL_ERROR "what was sent (${WORK}/sent.txt) is not ${EXPECTED}")
    endif()
endif()
if(DEFINED SAYS AND NOT out MATCHES "${SAYS}")
    message(FATAL_ERROR "what was sent has no \"${SAYS}\"")
endif()

if(PICTURE)
    execute_process(
        COMMAND ${PICTURE} ${WORK}/serial.txt
        RESULT_VARIABLE status
        OUTPUT_FILE ${WORK}/pages.svg
        ERROR_VARIABLE err
    )
    file(READ ${WORK}/pages.svg picture)
    if(NOT status EQUAL 0 OR NOT picture MATCHES "mapped on demand.*zapped.*</svg>")
        message(FATAL_ERROR "picture: ${status}, ${err}")
    endif()
endif()
