"""The files of a tokenizer in folders of diffusers and transformers, from ours."""

from __future__ import annotations

import json
from typing import Any

from ldmref.prompts.prompt_template import PromptTemplate
from ldmref.prompts.tokenizer import PromptTokenizer


def describe_tokenizer(tokenizer: PromptTokenizer, template: PromptTemplate) -> dict[str, Any]:
    """Return the fields of a tokenizer_config.json, which are arguments of transformers' class.

    A tokenizer of a chat has the template of one message, the prompt; others the tokens around a
    prompt and the number of tokens.

    Args:
        tokenizer: The tokenizer.
        template: What the family puts around a prompt.
    """
    known = {"bos_token": tokenizer.start, "eos_token": tokenizer.end, "pad_token": tokenizer.pad}
    words = {k: tokenizer.tokenizer.id_to_token(i) for k, i in known.items() if i is not None}
    found: dict[str, Any] = {"padding_side": "right", **words}
    if template.surrounds:
        before, after = json.dumps(template.before), json.dumps(template.after)
        text = "(said if said is string else said[0]['text'])"
        chat = f"{{% set said = messages[0]['content'] %}}{{{{ {before} + {text} + {after} }}}}"
        return {**found, "chat_template": chat}
    return {**found, "model_max_length": tokenizer.length}


def describe_tokens(tokenizer: PromptTokenizer) -> str:
    """Return tokenizer.json, with the tokens that programs put around a prompt."""
    if tokenizer.template.surrounds or tokenizer.end is None:  # which the manifest describes
        return tokenizer.tokenizer.to_str()
    content = json.loads(tokenizer.tokenizer.to_str())
    ends = [number for number in (tokenizer.start, tokenizer.end) if number is not None]
    names = {number: tokenizer.tokenizer.id_to_token(number) for number in ends}
    if len(names) < len(ends) or None in names.values():
        return tokenizer.tokenizer.to_str()
    *start, end = ({"SpecialToken": {"id": name, "type_id": 0}} for name in names.values())
    prompt = {"Sequence": {"id": "A", "type_id": 0}}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [*start, prompt, end],
        "pair": [*start, prompt, {"Sequence": {"id": "B", "type_id": 0}}, end],
        "special_tokens": {
            name: {"id": name, "ids": [number], "tokens": [name]} for number, name in names.items()
        },
    }
    return json.dumps(content, ensure_ascii=False)
