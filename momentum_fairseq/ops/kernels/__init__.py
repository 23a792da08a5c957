"""Triton kernels of the attention ops. Import its modules only where triton is installed: `ops.kernel_choice` knows."""
