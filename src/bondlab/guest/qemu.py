"""The QEMU command line for a guest with a stock kernel.

The guest has two processors, so that RCU grace periods and locks cost what they cost on a node.
The agent's channel is a virtio serial port, which passes bytes unchanged. This machine's files
and the shares are mounted over 9p. QEMU emulates the processor (TCG): this needs no privileges,
and each instruction takes several times longer than on the machine itself.

The guest has no NICs on cables. It ends when its kernel powers off, panics or is killed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

PROCESSORS = 2
# quiet: console output is slow; a panic is printed all the same. nokaslr: the addresses in a
# trace can be resolved.
APPEND = "console=ttyS0 quiet nokaslr panic=-1"
DEVICES = """\
-machine q35 -cpu max -accel tcg,thread=multi -nodefaults -no-user-config -no-reboot
-display none -serial stdio -device virtio-serial-pci -device virtserialport,chardev=agent
"""


def arguments(memory_mb: int, line: int, kernel: Sequence[str], shares: Iterable[str]) -> list[str]:
    """QEMU's arguments; ``line`` is the descriptor of the agent's channel.

    ``kernel`` has the paths of the kernel image and of the initramfs.
    """
    image, initramfs = kernel
    return [
        *DEVICES.split(),
        *("-smp", str(PROCESSORS), "-m", f"{memory_mb}M"),
        *("-kernel", image, "-initrd", initramfs, "-append", APPEND),
        *("-chardev", f"socket,id=agent,fd={line}"),
        *("-virtfs", virtfs("/", "root") + ",readonly=on"),
        *(
            word
            for place, directory in enumerate(shares)
            for word in ("-virtfs", virtfs(directory, tag(place)))
        ),
    ]


def tag(place: int) -> str:
    """The mount tag of the share with this index."""
    return f"share{place}"


def virtfs(directory: str, name: str) -> str:
    """The value of -virtfs that exports a directory of this machine; commas are doubled.

    multidevs=remap: inode numbers of several file systems in one tree must not collide.
    """
    path = directory.replace(",", ",,")
    return f"local,path={path},mount_tag={name},security_model=none,multidevs=remap"
