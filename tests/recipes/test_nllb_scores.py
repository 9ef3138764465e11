"""CTranslate2's scores of a translation are the log-probabilities of transformers' labels, language and end token included."""

import pytest

from mpo_jax.recipes.alignment import Nllb

torch = pytest.importorskip("torch", reason="transformers' models need torch: pip install torch")
converters = pytest.importorskip("ctranslate2.converters", reason="NLLB is scored by CTranslate2: pip install ctranslate2")

PAIRS = [("Chai ni moto sana.", "The tea is hot."), ("Ndiyo.", "Yes, it is so.")]


@pytest.fixture
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    core = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate([*special.values(), *letters])}, merges=[], unk_token="<unk>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=core, **special)
    fast.add_special_tokens({"additional_special_tokens": ["eng_Latn", "swh_Latn"]})
    return fast


def test_scores_are_those_of_transformers(tokenizer, tmp_path):
    from transformers import M2M100Config, M2M100ForConditionalGeneration

    torch.manual_seed(0)
    sizes = {
        f"{part}_{name}": n
        for part in ("encoder", "decoder")
        for name, n in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))
    }
    ids = {"decoder_start_token_id": 2, "eos_token_id": 2, "pad_token_id": 1, "bos_token_id": 0}
    config = M2M100Config(vocab_size=len(tokenizer), d_model=32, max_position_embeddings=128, init_std=0.3, **sizes, **ids)
    model = M2M100ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    files = ["tokenizer.json", "tokenizer_config.json"]
    converters.TransformersConverter(str(tmp_path / "model"), copy_files=files).convert(str(tmp_path / "converted"))
    for (text, meaning), logps in zip(PAIRS, Nllb(tmp_path / "converted").logps(PAIRS, "sw", "en"), strict=True):
        read, labels = (
            [tokenizer.convert_tokens_to_ids(code), *tokenizer(words, add_special_tokens=False)["input_ids"], 2]
            for code, words in (("swh_Latn", text), ("eng_Latn", meaning))
        )
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([read]), decoder_input_ids=torch.tensor([[2, *labels[:-1]]])).logits[0]
        expected = logits.log_softmax(-1)[range(len(labels)), labels].tolist()
        assert logps == pytest.approx(expected, abs=1e-4)
