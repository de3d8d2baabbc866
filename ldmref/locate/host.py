def judge_host(port, model, form, notes):
    return []
