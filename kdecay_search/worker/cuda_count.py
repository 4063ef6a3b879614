"""How many GPUs the CUDA driver shows to this process: a script that prints the number.

:mod:`kdecay_search.worker.devices` runs it in a process of its own, because a driver may hang or
crash, and because a process in which CUDA has started must not fork. It imports no torch.
"""

import ctypes

LIBRARY = "libcuda.so.1"


def visible_gpus() -> int:
    """Return the number of GPUs by CUDA's driver; 0 where it cannot start, or none is visible."""
    driver = ctypes.CDLL(LIBRARY)
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


if __name__ == "__main__":
    print(visible_gpus())
