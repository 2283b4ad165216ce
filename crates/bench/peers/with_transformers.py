"""transformers on the same checkpoint and machine: a prompt's time and the time of a step, for the tables of RESULTS.md.

    python3 crates/bench/peers/with_transformers.py /tmp/v2-lite-6 --threads 2

Needs torch and transformers. The checkpoint may be one of `moesaic synth`.
"""

import argparse
import statistics
import time

import torch
from transformers import AutoModelForCausalLM


def timed(work) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    start = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16, device_map=arguments.device).eval()
    print(f"ready in {time.perf_counter() - start:.1f} s")
    with torch.inference_mode():
        prompt = torch.randint(10, 30_000, (1, arguments.prompt), device=arguments.device)
        prefill = statistics.median(timed(lambda: model(prompt, use_cache=True, logits_to_keep=1)) for _ in range(4))
        print(f"prompt of {arguments.prompt}: {prefill * 1e3:.0f} ms, {arguments.prompt / prefill:.0f} tok/s")
        for batch in arguments.batches:
            # As our own benchmark has it: short prompts, then a token per step.
            answer = model(torch.randint(10, 30_000, (batch, 4), device=arguments.device), use_cache=True)
            times = []
            for _ in range(12):
                tokens = torch.randint(10, 30_000, (batch, 1), device=arguments.device)
                times.append(timed(lambda: model(tokens, past_key_values=answer.past_key_values, use_cache=True)))
            step = statistics.median(times[2:])
            print(f"batch {batch}: {step * 1e3:.1f} ms a step, {batch / step:.1f} tok/s")


if __name__ == "__main__":
    main()
