# Prompt embeddings, made with the base's own text encoder.


rule embed_prompts:
    input:
        unpack(ASKED.inputs("prompts")),
    output:
        **LAYOUT.prompts("{base}", "{style}").declared(),
    log:
        LAYOUT.log("embed_prompts", "{base}-{style}"),
    benchmark:
        LAYOUT.benchmark("embed_prompts", "{base}-{style}")
    conda:
        "../envs/cpu.yaml"
    threads: 2
    resources:
        mem_mb=8000,
        runtime=30,
    params:
        job=ASKED.job("prompts"),
    message:
        "Encoding the prompts of style {wildcards.style} with base {wildcards.base}."
    shell:
        "mvfl prompts --job {params.job:q} --log {log:q}"
