"""C kernels of the exact engine, compiled for this very processor at the first use, and their torch stand-ins."""
