"""The machine that QEMU plays for a stock kernel: its command line.

Two processors, so that the kernel waits for the other one as it does on a node; the agent's
channel as a virtio serial port, which has a file of its own in the guest and carries bytes as
they are; the machine's files and the shares over 9p. All of it is emulated (TCG): no rights are
needed, and every instruction costs several times what it costs on the machine itself.

There are no NICs on cables. The guest ends when its kernel powers off, panics or is killed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

PROCESSORS = 2
# Console messages are worth their time only when something is wrong; a panic is always shown,
# and with addresses that can be looked up.
APPEND = "console=ttyS0 quiet nokaslr panic=-1"
DEVICES = """\
-machine q35 -cpu max -accel tcg,thread=multi -nodefaults -no-user-config -no-reboot
-display none -serial stdio -device virtio-serial-pci -device virtserialport,chardev=agent
"""


def machine(memory_mb: int, line: int, kernel: Sequence[str], shares: Iterable[str]) -> list[str]:
    """QEMU's words; ``line`` is the descriptor of the agent's channel.

    ``kernel`` are the paths of its image and of its first files.
    """
    image, initramfs = kernel
    return [
        *DEVICES.split(),
        *("-smp", str(PROCESSORS), "-m", f"{memory_mb}M"),
        *("-kernel", image, "-initrd", initramfs, "-append", APPEND),
        *("-chardev", f"socket,id=agent,fd={line}"),
        *("-virtfs", files("/", "root") + ",readonly=on"),
        *(
            word
            for place, folder in enumerate(shares)
            for word in ("-virtfs", files(folder, tag(place)))
        ),
    ]


def tag(place: int) -> str:
    """What the guest calls the share at ``place``."""
    return f"share{place}"


def files(folder: str, name: str) -> str:
    """A folder of this machine under ``name``; in QEMU's options a comma is written twice.

    remap: a tree can hold several file systems, whose inode numbers must not meet.
    """
    path = folder.replace(",", ",,")
    return f"local,path={path},mount_tag={name},security_model=none,multidevs=remap"
