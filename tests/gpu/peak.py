"""What torch's bf16 product reaches on this GPU, in TFLOP/s: random values, since zeros are faster."""

import torch

SIZE = 8192
a, b = (torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
times = []
for _ in range(13):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(5):
        a @ b
    end.record()
    end.synchronize()
    times.append(start.elapsed_time(end) / 5)
print(f"{2 * SIZE**3 / sorted(times[3:])[5] / 1e9:.0f}")
