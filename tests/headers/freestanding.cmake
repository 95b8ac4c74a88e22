# kernel.cpp as a kernel compiles it: which functions it needs from elsewhere, all of them
# named in NEEDED. With RUN also linked with those and without any library, and run.
#   cmake -DCXX=compiler -DNM=nm -DFLAGS=list -DNEEDED=list -DINCLUDE=dir -DWORK=dir [-DRUN=ON]
#         -P freestanding.cmake
cmake_minimum_required(VERSION 3.24)

set(here ${CMAKE_CURRENT_LIST_DIR})
set(compile ${CXX} -std=c++20 -Wall -Wextra -Werror -ffreestanding -fno-exceptions -fno-rtti -fno-threadsafe-statics
            -fno-stack-protector -fno-pie ${FLAGS} -I ${INCLUDE})
file(MAKE_DIRECTORY ${WORK})
set(object ${WORK}/kernel.o)
execute_process(COMMAND ${compile} -c ${here}/kernel.cpp -o ${object} COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${NM} ${object} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
if(NOT symbols MATCHES " T kernel_main\n")
  message(FATAL_ERROR "the program is not there:\n${symbols}")
endif()
string(REGEX MATCHALL " U [^\n]+" needs "${symbols}")
list(TRANSFORM needs REPLACE "^ U " "")
set(others ${needs})
list(REMOVE_ITEM others ${NEEDED})
if(others)
  message(FATAL_ERROR "more is needed than ${NEEDED}: ${others}")
endif()
if(RUN)
  execute_process(
    COMMAND ${compile} -static -nostdlib ${object} ${here}/kernel_memory.cpp -o ${WORK}/kernel
    COMMAND_ERROR_IS_FATAL ANY
  )
  execute_process(COMMAND ${WORK}/kernel COMMAND_ERROR_IS_FATAL ANY)
endif()
message("needed: ${needs}")
