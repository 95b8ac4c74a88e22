#!/usr/bin/env bash
# Boots Linux in QEMU in each paging mode, dumps its memory, and holds what inspect says of the
# dump against what QEMU's monitor said of the same moment, line by line. Then one with KVM in it,
# whose nested tables must map a guest as the page map of the process behind it does.
#     tests/dumps.sh INSPECT [FOLDER]
# The guests' kernels and shells are packages of Debian's, downloaded and unpacked, not installed.
# With FOLDER the dumps stay there, with zeros in place of every page that holds no table, beside
# what the monitor said: so the recorded ones in tests/data were made.
# Says "skipped: " and why where a tool or a package is missing.
set -euo pipefail
[[ $# -ge 1 ]] || { sed -n '2,10s/^# \?//p' "$0"; exit 2; }
inspect=$(realpath "$1")
here=$(realpath "$(dirname "$0")")
kept=${2:+$(realpath "$2")}
for tool in qemu-system-x86_64 apt-get dpkg-deb cpio readelf perl g++; do
    command -v "$tool" >/dev/null || { echo "skipped: no $tool"; exit 0; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# apt ARCHITECTURE TOOL ...: with lists of its own for i386, so that the system's stay as they are
apt() {
    local architecture=$1 tool=$2 own=()
    shift 2
    [[ $architecture == amd64 ]] || own=(-o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache")
    "$tool" -q -o APT::Architecture="$architecture" -o APT::Architectures="$architecture" "${own[@]}" "$@" 2>/dev/null
}

# unpack ARCHITECTURE PACKAGE FOLDER
unpack() { apt "$1" apt-get download "$2" >/dev/null && dpkg-deb -x ./*.deb "$3" && rm ./*.deb; }

# system ARCHITECTURE META-PACKAGE FOLDER: the kernel that the meta package names, and a shell
system() {
    local kernel
    kernel=$(apt "$1" apt-cache depends "$2" | awk '/Depends: linux-image/ { print $2; exit }')
    mkdir -p "$3"/{root/bin,root/proc,root/dev}
    unpack "$1" "${kernel%:*}" "$3/kernel" && unpack "$1" busybox-static "$3/shell" || return 1
    mv "$3"/kernel/boot/vmlinuz-* "$3/vmlinuz"
    find "$3/kernel" '(' -name irqbypass.ko -o -name kvm.ko -o -name kvm-amd.ko ')' -exec mv -t "$3" {} +
    mv "$3/shell/bin/busybox" "$3/root/bin/"
    rm -r "$3/kernel" "$3/shell"
    # The shell stays in user mode, so that CR3 holds the root of its tables.
    printf '%s\n' '#!/bin/busybox sh' '/bin/busybox mount -t proc proc /proc' 'echo READY' 'while :; do :; done' \
        >"$3/root/init"
    initrd "$3"
}

# initrd FOLDER: of what is in its root
initrd() {
    chmod +x "$1/root/init"
    (cd "$1/root" && find . | cpio -o -H newc 2>/dev/null >../initrd)
}

# dump NAME FOLDER QEMU-OPTION...: boots and dumps; the monitor's answers go to NAME.tlb, .mem, .tlb1
dump() {
    local name=$1 from=$2 i
    shift 2
    mkfifo "$name.in"
    touch "$name".{tlb,mem,tlb1}
    qemu-system-x86_64 -nodefaults -display none -no-reboot -monitor stdio -serial "file:$name.log" "$@" \
        -kernel "$from/vmlinuz" -initrd "$from/initrd" -append "console=ttyS0 nokaslr quiet" \
        <"$name.in" >"$name.monitor" 2>&1 &
    exec 3>"$name.in"
    for ((i = 0; i < 100; ++i)); do
        grep -q READY "$name.log" 2>/dev/null && break
        sleep 1
    done
    if ! grep -q READY "$name.log"; then
        echo "$name: the guest did not boot" >&2
        cat "$name.monitor" "$name.log" >&2 || true
        return 1
    fi
    sleep 1
    printf '%s\n' stop 'info tlb' 'info mem' "dump-guest-memory $name.elf" 'cpu 1' 'info tlb' quit >&3
    exec 3>&-
    wait $!
    # Each answer stands between two prompts. In PAE the monitor prints NX as a bit of the address.
    tr -d '\r' <"$name.monitor" | awk -v name="$name" '
        /^\(qemu\)/ { ++n; next }
        n == 2 { sub(/: 8/, ": 0"); print >(name ".tlb") }
        n == 3 { print >(name ".mem") }
        n == 5 { alone = 1 }  # it says that there is no such CPU
        n == 6 && !alone { print >(name ".tlb1") }'
}

# same NAME WHAT OPTION...: whether inspect and the monitor say the same
same() {
    local name=$1 what=$2
    shift 2
    "$inspect" "$name.elf" "$@" >"$name.$what.inspected"
    cmp "$name.$what" "$name.$what.inspected"
    echo "$name $*: $(wc -l <"$name.$what") lines, as the monitor has them"
}

# keep NAME OPTION...: the dump with its tables alone
keep() {
    local name=$1 offset physical size page
    shift
    "$inspect" "$name.elf" "$@" --save "$name.ptimg"
    truncate -s "$(stat -c %s "$name.elf")" "$kept/$name.elf"
    readelf -lW "$name.elf" | awk '$1 == "LOAD" { print $2, $4, $5 }' >"$name.segments"
    read -r offset _ <"$name.segments"
    dd if="$name.elf" of="$kept/$name.elf" bs=$((offset)) count=1 conv=notrunc status=none
    while read -r offset physical size; do
        grep -v '^#' "$name.ptimg" | cut -c1-13 | uniq | while read -r page; do
            page=$((0x$page << 12))
            ((page >= physical && page < physical + size)) || continue
            dd if="$name.elf" of="$kept/$name.elf" bs=4096 count=1 conv=notrunc status=none \
                iflag=skip_bytes oflag=seek_bytes skip=$((page - physical + offset)) seek=$((page - physical + offset))
        done
    done <"$name.segments"
}

mkdir -p lists/partial cache/archives/partial
apt i386 apt-get update >/dev/null || true  # also where only one of many lists cannot be had
compared=0

# guest NAME ARCHITECTURE META-PACKAGE QEMU-OPTION...
guest() {
    local name=$1 architecture=$2 package=$3
    shift 3
    [[ -d $package ]] || system "$architecture" "$package" "$package" || { echo "skipped: $name, no $package"; return; }
    dump "$name" "$package" "$@"
    same "$name" tlb --pages
    # Of five levels QEMU's `info mem` prints nothing.
    [[ ! -s $name.mem ]] || same "$name" mem --rights
    [[ ! -s $name.tlb1 ]] || same "$name" tlb1 --pages --cpu 1
    if [[ -n $kept ]]; then
        keep "$name"
        cp "$name".{tlb,mem} "$kept/"
    fi
    rm "$name.elf"
    ((++compared))
}

# A KVM host over one guest. Its nested root is N_CR3 of the VMCB, which is the page that has the guest's
# RIP and RAX where VMRUN keeps them. AMD APM volume 2, "VMCB Layout".
kvm_host() {
    local name=x86-kvm from=linux-image-cloud-amd64 root
    [[ -e $from/kvm-amd.ko ]] || { echo "skipped: $name, no $from"; return; }
    g++ -std=c++20 -static "$here/kvm_guest.cpp" -o "$from/root/kvm_guest"
    cp "$from"/*.ko "$from/root/"
    printf '%s\n' '#!/bin/busybox sh' 'busybox=/bin/busybox' '$busybox mount -t proc proc /proc' \
        '$busybox mount -t devtmpfs dev /dev' 'for m in irqbypass kvm kvm-amd; do $busybox insmod /$m.ko; done' \
        /kvm_guest '$busybox sleep 1000' >"$from/root/init"
    initrd "$from"
    dump "$name" "$from" -cpu EPYC -m 96
    root=$(perl -e '
        my ($file, $log) = @ARGV;
        local $/;
        open my $f, "<", $log or die; my ($rip, $rax) = <$f> =~ /guest rip=(\w+) rax=(\w+)/ or die;
        open my $d, "<:raw", $file or die; my $all = <$d>;
        # RIP is at 578h, RAX 80h behind it, N_CR3 at b0h. KVM may have stepped over HLT in a copy alone.
        for my $key (hex $rip, hex($rip) - 1) {
            for (my $at = 0; ($at = index $all, pack("Q<", $key), $at) >= 0; ++$at) {
                next if $at < 0x578 || substr($all, $at + 0x80, 8) ne pack("Q<", hex $rax);
                my $root = unpack "Q<", substr $all, $at - 0x578 + 0xb0, 8;
                next if $root == 0 || $root % 4096;
                printf "%x", $root;
                exit;
            }
        }
        die "no VMCB\n";' "$name.elf" "$name.log")
    tr -d '\r' <"$name.log" | sed -n 's/^page //p' >"$name.pages"
    "$inspect" "$name.elf" --root "$root" --format npt --pages | cut -d' ' -f1,2 | cmp - "$name.pages"
    echo "$name --root $root --format npt --pages: $(wc -l <"$name.pages") lines, as the page map has them"
    if [[ -n $kept ]]; then
        keep "$name" --root "$root" --format npt
        cp "$name.pages" "$kept/"
        echo "$root" >"$kept/$name.root"
    fi
    ((++compared))
}

guest x86-4-levels amd64 linux-image-cloud-amd64 -cpu max,-la57 -m 96
guest x86-5-levels amd64 linux-image-cloud-amd64 -cpu max,+la57 -m 96 -smp 2
guest x86-pae i386 linux-image-686-pae -cpu max,-lm -m 96
guest x86-2-levels i386 linux-image-686 -cpu qemu32 -m 96
kvm_host
echo "$compared of 5 guests compared, $SECONDS s"
