"""Whether a place lies on a file system that other machines use too."""

from __future__ import annotations

from pathlib import Path

import psutil

# As the kernel names them. What runs in user space may be anything, so it counts as shared.
_NETWORKED = frozenset(
    {
        *("9p", "afpfs", "afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "gpfs", "lustre"),
        *("ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb3", "smbfs"),
        *("virtiofs", "webdav", "wekafs"),
    }
)
_IN_USER_SPACE = "fuse"


def network_file_system(place: Path) -> str:
    """Return the kind of network file system that a place lies on, for example ``nfs4``.

    Args:
        place: A file or folder, which need not be there.

    Returns:
        Its name; "" where the disk is this machine's own, or nothing is known.
    """
    try:
        mounts = psutil.disk_partitions(all=True)
    except OSError:
        return ""
    real, kind, deepest = place.resolve(), "", -1
    for mount in mounts:  # of two on one another the later one is seen
        if len(mount.mountpoint) >= deepest and real.is_relative_to(mount.mountpoint):
            kind, deepest = mount.fstype, len(mount.mountpoint)
    is_networked = kind in _NETWORKED or kind.startswith(_IN_USER_SPACE)
    return kind if is_networked else ""
