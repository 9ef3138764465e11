"""Updates of multilingual reward-gap MPO with a low-rank adapter as PEFT and PyTorch compute them. Needs torch and peft.

python tests/peft_step.py         writes tests/fixtures/lora.npz, what the tests compare with where torch is absent
"""

import sys
import warnings
from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).resolve().parent / "fixtures"
CASES = {"rank 8, rslora": ("llama", 8, 16.0, True), "rank 1": ("qwen2", 1, 2.0, False)}  # base, rank, alpha, rslora
LR, EPS, UPDATES, ROWS = 1e-2, 1e-4, 3, 4


def peft_updates(
    base: str, rank: int, alpha: float, rslora: bool, tensors: dict[str, np.ndarray], batch
) -> dict[str, np.ndarray]:
    """Losses of three updates from the adapter `tensors` (by PEFT's names), the first gradients, and the adapter at the end.
    `batch` has padded rows of one sequence each, as `tiny.batch` makes them."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(FIXTURES / base, attn_implementation="eager", dtype=torch.float32)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = peft.get_peft_model(
            hf, peft.LoraConfig(r=rank, lora_alpha=alpha, use_rslora=rslora, target_modules=targets)
        ).eval()
    trained = {name.replace(".default", ""): p for name, p in model.named_parameters() if "lora_" in name}
    assert trained.keys() == tensors.keys()
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(torch.from_numpy(tensors[name].copy()))
    tokens = torch.from_numpy(np.asarray(batch.policy.tokens_ST)).long()
    slots = 2 * ROWS * 4

    def scores():
        out = model(tokens, output_hidden_states=True)
        logp_STV = out.logits.log_softmax(-1)
        at, label, slot = (
            torch.from_numpy(np.asarray(getattr(batch.policy, f"answer_{name}_SA"))).long() for name in ("at", "label", "slot")
        )
        rows = torch.arange(len(at))[:, None].expand_as(at)
        real = slot >= 0
        logp = logp_STV[rows[real], at[real], label[real]]
        total = torch.zeros(slots).index_add(0, slot[real], logp)
        count = torch.zeros(slots).index_add(0, slot[real], torch.ones_like(logp))
        pool, weight = (torch.from_numpy(np.asarray(getattr(batch.policy, f"pool_{name}_ST"))) for name in ("slot", "weight"))
        here = pool >= 0
        states = out.hidden_states[-1][here] * weight[here][:, None]
        pooled = torch.zeros(slots, states.shape[1]).index_add(0, pool[here].long(), states)
        return (total / count.clamp(min=1)).reshape(4, 2, ROWS), pooled.reshape(4, 2, ROWS, -1)

    with torch.no_grad(), model.disable_adapter():
        reference_logp, reference_hidden = scores()
    goal = reference_logp[0, 0] - reference_logp[0, 1]
    optimizer = torch.optim.AdamW(trained.values(), lr=LR, eps=EPS, weight_decay=0.0)
    found: dict[str, np.ndarray] = {}
    losses = []
    for update in range(UPDATES):
        logp, hidden = scores()
        gap = logp[1, 0] - logp[1, 1]
        loss = ((gap - goal) ** 2).mean() + ((hidden[0] - reference_hidden[0]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        if update == 0:
            found |= {f"gradient {name}": p.grad.numpy().copy() for name, p in trained.items()}
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    found |= {f"after {name}": p.detach().numpy().copy() for name, p in trained.items()}
    return found | {"losses": np.asarray(losses)}


if __name__ == "__main__":
    sys.path[:0] = [
        str(Path(__file__).resolve().parent),
        str(Path(__file__).resolve().parent / "training"),
        str(Path(__file__).resolve().parent.parent),
    ]
    import tiny
    from test_lora import start

    stored = {}
    for case, (base, rank, alpha, rslora) in CASES.items():
        found = peft_updates(base, rank, alpha, rslora, start(case)[3], tiny.batch(ROWS))
        stored |= {f"{case}: {name}": value for name, value in found.items()}
    np.savez_compressed(FIXTURES / "lora.npz", **stored)
