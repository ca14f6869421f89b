"""A language model of your own: how noisy its gradient is, and whether noise limits the step.

The model is a small Qwen2 with random weights, so that nothing is downloaded; yours comes from
``AutoModelForCausalLM.from_pretrained``. The reward is a regular expression on the answer's text.

    python examples/own_language_model.py
"""

import re

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

import estbench

LETTERS = ["<end>", *"0123456789+="]


def own_model():
    """Return a model and its tokenizer, a token for each letter."""
    letters = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(LETTERS)}))
    letters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    letters.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="<end>")
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=len(LETTERS), initializer_range=0.1, **size, **heads)
    return Qwen2ForCausalLM(config), tokenizer


def reward(answers, prompts):
    """1 for one or two digits and no more, else 0."""
    return [float(bool(re.fullmatch(r"\d{1,2}", answer))) for answer in answers]


def main():
    model, tokenizer = own_model()
    prompts = ["3+4=", "17+25=", "8="]
    policy = estbench.from_huggingface(model, prompts, max_new_tokens=3, tokenizer=tokenizer)
    names = ["rloo", "dr-grpo", "grpo-published"]
    table = estbench.measure(policy, policy.text_reward(reward), names, draws=600)
    table["noise_scale"] = table["sequences_per_draw"] / table["snr"]  # in answers
    columns = ["estimator", "variance_per_sequence", "ratio", "relative_bias", "bias_low"]
    print(table[[*columns, "noise_scale"]].to_string(index=False, float_format="{:.3g}".format))
    return table


if __name__ == "__main__":
    main()
