"""What to do where no sandbox can be had."""

from __future__ import annotations

from typing import Final

REMEDY: Final = (
    "Expected is Linux on x86_64 or aarch64; bubblewrap (`apt install bubblewrap`, or `pip install "
    "'masa_lightning[code]'`); and leave to make namespaces: for root the capability CAP_SYS_ADMIN (in Docker `--cap-add "
    "SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined`), for others user namespaces (`sysctl "
    "user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0`, "
    "as far as the system has these). Nothing is run without a sandbox."
)
